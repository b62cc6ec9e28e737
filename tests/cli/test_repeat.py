"""`repeat`: a file's tags suffice to generate its samples again, to the last bit."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from diffusers import DDIMScheduler

from clip2clap.inference.batch import BatchOptions, Job, generate_audio
from clip2clap.inference.batch.repeat import repeat_audio
from clip2clap.inference.batch.tags import load_input
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio, read_tags
from clip2clap.media.writing import AudioFileOptions, write_audio

from .builders import write_translator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def parts(
    musicldm_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Save a generator that ranks, with a CLIP and a translator beside it."""
    folder = tmp_path_factory.mktemp("parts")
    translator = write_translator(folder / "translator", clip_folder, musicldm_folder)
    return {"generator": musicldm_folder, "clip": clip_folder, "translator": translator}


def load(parts: dict[str, Path], **options: Any) -> ImageToAudioPipeline:
    given = {name: path for name, path in parts.items() if name != "generator"}
    return ImageToAudioPipeline.from_pretrained(parts["generator"], **given, **options)


@pytest.fixture
def make(
    parts: dict[str, Path], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Generate a folder of audio from the photographs; returns it."""
    monkeypatch.chdir(tmp_path)

    def make(*jobs: Job, options: BatchOptions | None = None, **call: Any) -> Path:
        found = jobs or [Job(str(path)) for path in sorted(photos.iterdir())]
        settings = {"num_inference_steps": 2, "num_candidates": 1, **call}
        generate_audio(load(parts), found, "made", options, **settings)
        return tmp_path / "made"

    return make


@pytest.fixture
def other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "file",
    [
        AudioFileOptions(),
        AudioFileOptions("flac", bit_depth=24),
        AudioFileOptions("wav", 48_000, 2, "float", -20.0, -2.0, 0.01),
    ],
    ids=["plain", "flac", "studio"],
)
def test_a_file_of_a_batch_is_made_again_to_the_last_bit_without_the_others(
    file: AudioFileOptions, make: Callable[..., Path], photos: Path, run: Run
) -> None:
    folder = make(options=BatchOptions(batch_size=3, seed=5, file=file))
    (photos / "cat.png").unlink()
    suffix = file.format or "wav"
    for name in ("dog", "dog-2"):
        sound = folder / f"{name}.{suffix}"
        status, shown, complaint = run("repeat", sound, "-o", "again")
        assert (status, complaint) == (0, "")
        assert "Its samples equal those of" in shown
        if file.bit_depth != "float":  # libsndfile notes the time in such a header
            assert (Path("again") / sound.name).read_bytes() == sound.read_bytes()
    assert run("repeat", sound, "-o", "again")[0] == 0
    assert sorted(path.name for path in Path("again").iterdir()) == [
        f"dog-2-2.{suffix}",
        f"dog-2.{suffix}",
        f"dog.{suffix}",
    ]


@pytest.mark.parametrize("format", ["ogg", "mp3", "opus"])
def test_a_lossy_file_is_made_again_sample_for_sample(
    format: Any, make: Callable[..., Path], run: Run
) -> None:
    sound = make(options=BatchOptions(file=AudioFileOptions(format))) / f"cat.{format}"
    status, shown, _ = run("repeat", sound, "-o", f"again.{format}", "--json")
    assert status == 0
    assert json.loads(shown)["results"] == [
        {"input": str(sound), "output": f"again.{format}", "difference": 0.0}
    ]
    for each in (0, 1):
        np.testing.assert_array_equal(load_audio(f"again.{format}")[each], load_audio(sound)[each])
    assert read_tags(f"again.{format}") == read_tags(sound)


def test_variations_and_dropped_candidates_are_made_again(
    make: Callable[..., Path], run: Run
) -> None:
    options = BatchOptions(num_variations=2, keep_candidates=True, batch_size=5)
    folder = make(options=options, num_candidates=3)
    files = [folder / "dog-1.wav", folder / "dog-2.wav", folder / "candidates" / "dog-3.wav"]
    again = []
    for sound in files:
        assert run("repeat", sound, "-o", "again")[0] == 0
        again.append((Path("again") / sound.name).read_bytes())
        assert again[-1] == sound.read_bytes()
    assert len(set(again)) == 3


def test_prompts_with_a_negative_one_and_another_solver_are_made_again(
    make: Callable[..., Path], parts: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    pipeline = load(parts)
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="leading"
    )
    jobs = [Job(prompt="a dog barks at a passing train in the rain"), Job(prompt="rain", seed=9)]
    call: dict[str, Any] = {"num_inference_steps": 2, "num_candidates": 1}
    call |= {"negative_prompt": "noise", "eta": 0.5}
    generate_audio(pipeline, jobs, "made", BatchOptions(batch_size=2), **call)
    sound = tmp_path / "made" / "rain.wav"
    assert run("repeat", sound, "-o", "again.wav")[0] == 0
    assert Path("again.wav").read_bytes() == sound.read_bytes()


def test_another_number_of_threads_changes_samples_by_less_than_is_heard(
    make: Callable[..., Path], parts: dict[str, Path], other_threads: None, run: Run
) -> None:
    sound = make() / "cat.wav"
    tags = read_tags(sound)
    assert tags["run"]["threads"] == 2
    pipeline = load(parts)
    torch.set_num_threads(1)
    single = tags | {"run": tags["run"] | {"items": 1, "place": 0}}
    alone = repeat_audio(pipeline, single, load_input(tags, None))
    torch.set_num_threads(2)
    same = repeat_audio(pipeline, tags, load_input(tags, None))
    np.testing.assert_allclose(alone, same, atol=1e-4)
    # The command uses the threads of then, so that nothing changes at all.
    torch.set_num_threads(1)
    assert run("repeat", sound, "-o", "again.wav")[0] == 0
    assert Path("again.wav").read_bytes() == sound.read_bytes()


def test_an_image_that_changed_or_is_gone_is_refused_and_found_elsewhere(
    make: Callable[..., Path], photos: Path, run: Run
) -> None:
    sound = make() / "cat.wav"
    shutil.move(photos / "cat.png", "moved.png")
    status, _, complaint = run("repeat", sound, "-o", "again.wav")
    assert status == 2
    assert complaint == (
        f"error: --image: The image {photos / 'cat.png'} does not exist. Say where it is now: "
        "--image FILE\n"
    )
    status, _, complaint = run("repeat", sound, "-o", "again.wav", "--image", photos / "dog.png")
    assert status == 2
    assert "is not the one that was used: its SHA-256 differs" in complaint
    assert not Path("again.wav").exists()
    assert run("repeat", sound, "-o", "again.wav", "--image", "moved.png")[0] == 0
    assert Path("again.wav").read_bytes() == sound.read_bytes()


def test_an_image_is_found_from_another_folder_than_that_of_the_run(
    make: Callable[..., Path],
    photos: Path,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sound = make(Job(str(photos.relative_to(tmp_path) / "cat.png"))) / "cat.wav"
    elsewhere = tmp_path / "elsewhere"
    # Another image is where the path leads from here.
    shutil.copytree(photos, elsewhere / photos.name)
    shutil.copy(photos / "dog.png", elsewhere / photos.name / "cat.png")
    monkeypatch.chdir(elsewhere)
    for name in (sound, "../made/cat.wav"):
        assert run("repeat", name, "-o", "again.wav", "--overwrite")[0] == 0
        assert Path("again.wav").read_bytes() == sound.read_bytes()
    shutil.move(photos, tmp_path / "moved")
    status, _, complaint = run("repeat", sound, "-o", "again.wav", "--overwrite")
    assert status == 2
    assert f"The image {photos.name}/cat.png is not the one that was used" in complaint


def test_models_that_changed_are_refused_by_name(
    make: Callable[..., Path], parts: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    copies = {name: tmp_path / name for name in parts}
    for name, path in parts.items():
        shutil.copytree(path, copies[name])
    call: dict[str, Any] = {"num_inference_steps": 2, "num_candidates": 1}
    generate_audio(load(copies), [Job(prompt="rain")], "made", **call)
    pipeline = load(copies)
    assert pipeline.translator is not None
    with torch.no_grad():
        next(pipeline.translator.parameters()).add_(0.01)
    pipeline.translator.save_pretrained(copies["translator"])
    status, _, complaint = run("repeat", "made/rain.wav", "-o", "again.wav")
    assert status == 2
    assert "The translator is not the one that was used" in complaint
    shutil.rmtree(copies["translator"])
    status, _, complaint = run("repeat", "made/rain.wav", "-o", "again.wav")
    assert status == 2
    assert str(copies["translator"]) in complaint
    assert not Path("again.wav").exists()


def test_models_without_names_are_refused(parts: dict[str, Path], run: Run, tmp_path: Path) -> None:
    pipeline = load(parts | {"translator": load(parts).translator})  # pyright: ignore[reportArgumentType]
    sounds = tmp_path / "made"
    generate_audio(pipeline, [Job(prompt="rain")], sounds, num_inference_steps=1, num_candidates=1)
    status, _, complaint = run("repeat", sounds / "rain.wav", "-o", tmp_path / "again.wav")
    assert status == 2
    assert "models that were not loaded by name" in complaint


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (None, "has no tags of clip2clap"),
        ({"prompt": "a cat"}, "not those of audio that clip2clap generated"),
        ({"settings": 1}, "not those of audio that clip2clap generated"),
        ({"version": 99}, "has tags of version 99"),
    ],
)
def test_files_that_do_not_tell_are_refused_in_one_line(
    tags: dict[str, Any] | None, words: str, make: Callable[..., Path], run: Run
) -> None:
    if tags is not None and "prompt" not in tags:
        tags = read_tags(make(Job(prompt="rain")) / "rain.wav") | tags
    write_audio("other.wav", np.zeros(8000), 16_000, tags=tags)
    status, _, complaint = run("repeat", "other.wav", "-o", "again.wav")
    assert status == 2
    assert complaint.count("\n") == 1
    assert words in complaint
    assert not Path("again.wav").exists()


def test_a_file_that_is_no_audio_or_missing_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("text")
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16_000)
    for name, words in (("text.wav", "not an audio file"), ("absent.wav", "does not exist")):
        status, _, complaint = run("repeat", tmp_path / name)
        assert status == 2
        assert words in complaint
