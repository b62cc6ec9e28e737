"""The command line: what it makes, what it refuses and in which words."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import chelsea

from clip2clap.cli.inputs import image_stem
from clip2clap.core.presets import PRESETS
from clip2clap.core.version import __version__
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.metadata import Provenance
from clip2clap.translator.mlp import MLPTranslator

Run = Callable[..., tuple[int, str, str]]


def test_help_names_every_verb_and_is_what_no_arguments_show(run: Run) -> None:
    status, shown, _ = run("--help")
    assert status == 0
    for verb in ("demo", "image-to-audio", "train", "doctor"):
        assert verb in shown
    assert run() == (0, shown, "")


def test_version_is_the_package_s(run: Run) -> None:
    assert run("--version") == (0, f"clip2clap {__version__}\n", "")


def test_help_imports_neither_torch_nor_the_libraries_above_it() -> None:
    code = (
        "import sys; from clip2clap.cli.app import main\n"
        "try: main(['image-to-audio', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'transformers', 'diffusers', 'datasets', 'numpy', 'matplotlib', 'PIL'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--duration-s -3", "--duration-s: expected above 0, got -3."),
        ("--duration-s 0", "--duration-s: expected above 0, got 0."),
        ("--duration-s nan", "--duration-s: expected above 0, got nan."),
        ("--prompt rain", "INPUT: give images, or --prompt, and not both."),
        ("--num-inference-steps 0", "--num-inference-steps: expected at least 1, got 0."),
        ("--guidance-scale -1", "--guidance-scale: expected at least 0, got -1."),
        ("--num-candidates 0", "--num-candidates: expected at least 1, got 0."),
        ("--batch-size 0", "--batch-size: expected at least 1, got 0."),
        ("--seed -1", "--seed: expected at least 0, got -1."),
        ("--device gpu", "--device: expected auto, cpu, cuda, cuda:N or mps, got 'gpu'."),
        ("--dtype fp16 --device cpu", "--dtype: fp16 is slow and overflows on the CPU."),
        ("--audio-format mp3", "'mp3' is not one of 'wav', 'flac', 'ogg'"),
        ("--num-candidates 1 --ranker x", "--ranker: there is nothing to rank with one candidate."),
        ("--ranker-translator x", "--ranker-translator: it maps into the space of a ranker."),
        ("--seeds 1", "No such option: --seeds"),
        ("-o sound.mp3", "--output: .mp3 cannot be written. Use .wav, .flac or .ogg"),
        ("-o sound.ogg --audio-format wav", "--audio-format: sound.ogg does not end in .wav."),
        ("-o photo.png", "--output: photo.png is a file, not a folder."),
        ("-o photo.png/sounds", "--output: photo.png/sounds cannot be created"),
        ("--generator no/such-model-anywhere", "no/such-model-anywhere"),
        ("--generator ./nowhere", "There is no generator folder './nowhere'."),
        ("--generator audioldm-s-full-v2", "audioldm-s-full-v2"),
    ],
)
def test_a_mistake_gets_one_line_with_the_reason_and_exit_code_2(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Image.new("RGB", (8, 8)).save("photo.png")
    output = [] if "-o " in options else ["-o", "out"]
    status, shown, complaint = run("image-to-audio", "photo.png", *output, *options.split())
    assert (status, shown) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert words in complaint


def test_one_file_name_for_several_photographs_is_refused(run: Run, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    status, _, complaint = run("image-to-audio", tmp_path, "-o", tmp_path / "sound.wav")
    assert status == 2
    assert "sound.wav is one file, and there are 2 inputs" in complaint
    assert not (tmp_path / "sound.wav").exists()


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("photos/dog.jpg", "dog"),
        ("archive.tar.gz", "archive.tar"),
        ("https://example.org/a%20b/The%20dog.JPG?size=large#top", "The-dog"),
        ("http://example.org/..%2F..%2Fetc%2Fpasswd.png", "passwd"),
        ("https://example.org/", "image"),
        ("https://example.org/" + "long" * 100, ("long" * 100)[:80]),
    ],
)
def test_a_sound_is_named_after_its_photograph(source: str, stem: str) -> None:
    assert image_stem(source) == stem


def write_translator(folder: Path, clip: Path, generator: Path) -> Path:
    clip_space = read_space(clip, family="clip", modality="image")
    clap_space = read_space(generator, family="clap", modality="text")
    torch.manual_seed(0)
    translator = MLPTranslator(
        clip_space.dim,
        clap_space.dim,
        hidden_size=16,
        provenance=Provenance(clip_space, clap_space),
    )
    translator.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model(
    audioldm_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pipeline's folder with every part a photograph needs, tiny and with random weights."""
    folder = tmp_path_factory.mktemp("model")
    translator = write_translator(folder / "translator", clip_folder, audioldm_folder)
    pipeline = ImageToAudioPipeline.from_audioldm(
        audioldm_folder, clip=clip_folder, translator=translator
    )
    pipeline.register_to_config(default_num_inference_steps=2)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def samples(model: Path) -> int:
    """Length of the tiny model's sound."""
    pipeline = ImageToAudioPipeline.from_pretrained(model)
    return round(pipeline.default_audio_length_in_s * pipeline.sampling_rate)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photographs, two of which bear one name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name in ("cat.png", "dog.jpg", "dog.png"):
        Image.fromarray(noise.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


def sounds_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_each_photograph_gets_a_sound_of_its_name_and_clashes_are_solved(
    run: Run, model: Path, photos: Path, tmp_path: Path, samples: int
) -> None:
    out = tmp_path / "deep" / "sounds"
    status, shown, _ = run("image-to-audio", photos, "-o", out, "--generator", model)
    assert status == 0
    names = ["cat.wav", "dog.wav", "dog-2.wav"]
    assert shown.splitlines() == [str(out / name) for name in names]
    assert sorted(sounds_in(out)) == sorted(names)
    for name in names:
        waveform, rate = load_audio(out / name)
        assert (len(waveform), rate) == (samples, 16_000)
        assert np.abs(waveform).max() > 0


def test_a_sound_depends_on_its_seed_and_not_on_batches_or_neighbours(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    def make(*arguments: str | Path) -> dict:
        status, shown, _ = run(
            "image-to-audio", *arguments, "--generator", model, "--dtype", "fp32", "--json"
        )
        assert status == 0
        return json.loads(shown)

    together = make(photos, "-o", tmp_path / "a", "--seed", "5", "--batch-size", "3")
    make(photos, "-o", tmp_path / "b", "--seed", "5", "--batch-size", "2")
    make(photos, "-o", tmp_path / "c", "--seed", "6", "--batch-size", "3")
    last = together["sounds"][2]
    assert (last["input"], last["seed"]) == (str(photos / "dog.png"), 7)
    make(last["input"], "-o", tmp_path / "d" / "alone.wav", "--seed", str(last["seed"]))
    # Batches of different sizes may round differently, which one 16-bit step can show.
    step = 1.5 / 32768
    for name in ("cat.wav", "dog.wav", "dog-2.wav"):
        first, other_batches, other_seed = (load_audio(tmp_path / run / name)[0] for run in "abc")
        np.testing.assert_allclose(first, other_batches, atol=step)
        assert np.abs(first - other_seed).max() > 100 * step
    alone, _ = load_audio(tmp_path / "d" / "alone.wav")
    np.testing.assert_allclose(alone, load_audio(last["output"])[0], atol=step)


def test_an_unreadable_photograph_is_skipped_and_the_others_are_made(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    (photos / "broken.jpg").write_text("not a picture")
    status, shown, complaint = run(
        "image-to-audio",
        photos,
        "absent.png",
        "-o",
        tmp_path / "out",
        "--generator",
        model,
        "--json",
    )
    assert status == 1
    report = json.loads(shown)
    assert [skipped["input"] for skipped in report["skipped"]] == [
        str(photos / "broken.jpg"),
        "absent.png",
    ]
    assert complaint.splitlines() == [
        *(f"skipped: {skipped['reason']}" for skipped in report["skipped"]),
        *complaint.splitlines()[2:],
    ]
    assert sorted(sounds_in(tmp_path / "out")) == ["cat.wav", "dog-2.wav", "dog.wav"]


def test_files_are_never_overwritten_unless_asked_for(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "cat.wav").write_text("mine")
    (out / "one.wav").write_text("mine")
    cat = photos / "cat.png"
    for arguments in (["-o", out], ["-o", out / "one.wav"]):
        assert run("image-to-audio", cat, *arguments, "--generator", model)[0] == 0
    assert sorted(sounds_in(out)) == ["cat-2.wav", "cat.wav", "one-2.wav", "one.wav"]
    assert (out / "cat.wav").read_text() == (out / "one.wav").read_text() == "mine"
    assert run("image-to-audio", cat, "-o", out, "--generator", model, "--overwrite")[0] == 0
    assert len(sounds_in(out)) == 4
    assert (out / "cat.wav").read_bytes() == (out / "cat-2.wav").read_bytes()


@pytest.mark.parametrize(
    ("options", "name", "kind"),
    [
        (["-o", "one.flac"], "one.flac", b"fLaC"),
        (["-o", "out", "--audio-format", "ogg"], "out/cat.ogg", b"OggS"),
        (["-o", "out", "--audio-format", "flac", "--spectrogram"], "out/cat.flac", b"fLaC"),
        (
            ["-o", "out", "--audio-format", "flac", "--spectrogram"],
            "out/cat-spectrogram.png",
            b"\x89PNG",
        ),
    ],
)
def test_formats_and_the_spectrogram_are_what_their_names_say(
    run: Run,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    name: str,
    kind: bytes,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("image-to-audio", photos / "cat.png", *options, "--generator", model)[0] == 0
    assert (tmp_path / name).read_bytes()[:4] == kind


def test_prompts_get_audio_named_by_their_words(
    run: Run, model: Path, tmp_path: Path, samples: int
) -> None:
    def generate(folder: str, *options: str) -> dict:
        status, shown, _ = run(
            *("image-to-audio", "--prompt", "a dog barks", "--num-candidates", "1", *options),
            *("-o", tmp_path / folder, "--generator", model, "--dtype", "fp32", "--json"),
        )
        assert status == 0
        return json.loads(shown)

    plain = generate("plain", "--prompt", "rain", "--seed", "2")
    assert [(each["input"], each["seed"]) for each in plain["sounds"]] == [
        ("a dog barks", 2),
        ("rain", 3),
    ]
    assert sorted(sounds_in(tmp_path / "plain")) == ["a-dog-barks.wav", "rain.wav"]
    waveform, rate = load_audio(tmp_path / "plain" / "a-dog-barks.wav")
    assert (len(waveform), rate) == (samples, 16_000)
    pipeline = ImageToAudioPipeline.from_pretrained(model, torch_dtype=None)
    result = pipeline(prompt="a dog barks", generator=[torch.Generator().manual_seed(2)])
    assert isinstance(result, ImageToAudioOutput)
    np.testing.assert_allclose(waveform, result.audios[0], atol=1e-4)

    away = generate("away", "--negative-prompt", "rain", "--seed", "2")
    assert away["settings"]["negative_prompt"] == "rain"
    guided, _ = load_audio(tmp_path / "away" / "a-dog-barks.wav")
    assert np.abs(guided - waveform).max() > 1e-3


def test_a_sound_too_long_for_the_memory_gets_one_line(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    status, _, complaint = run(
        "image-to-audio",
        *(
            photos / "cat.png",
            "-o",
            tmp_path / "out",
            "--generator",
            model,
            "--duration-s",
            "1e10",
        ),
    )
    assert status == 2
    assert complaint.splitlines() == [
        "error: There is not enough memory. Lower --batch-size or the length of the audio, or use "
        "--dtype bf16."
    ]


def test_json_is_one_document_with_all_that_was_done(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, shown, _ = run(
        "image-to-audio",
        photos / "cat.png",
        *("-o", out, "--generator", model, "--json", "--spectrogram", "--seed", "3"),
        *(
            "--num-inference-steps",
            "3",
            "--duration-s",
            "0.016",
            "--dtype",
            "fp32",
            "--device",
            "cpu",
        ),
    )
    assert status == 0
    report = json.loads(shown)
    assert report.pop("seconds").keys() == {"load", "make"}
    assert report == {
        "clip2clap": __version__,
        "settings": {
            "model": str(model),
            "translator": None,
            "clip": None,
            "ranker": None,
            "ranker_translator": None,
            "scheduler": "DPMSolverMultistepScheduler",
            "seed": 3,
            "device": "cpu",
            "dtype": "float32",
            "audio_length_in_s": 0.016,
            "num_inference_steps": 3,
            "guidance_scale": 2.5,
            "guidance_interval": [0.0, 1.0],
            "negative_prompt": None,
            "num_candidates": 1,
            "batch_size": 4,
        },
        "sounds": [
            {
                "input": str(photos / "cat.png"),
                "output": str(out / "cat.wav"),
                "spectrogram": str(out / "cat-spectrogram.png"),
                "seed": 3,
                "seconds": 0.016,
                "sampling_rate": 16_000,
            }
        ],
        "skipped": [],
        "interrupted": False,
    }


def test_another_scheduler_makes_another_sound(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    made = set()
    for name in ("default", "ddim", "unipc", "euler", "pndm"):
        sound = tmp_path / f"{name}.wav"
        arguments = (
            "-o",
            sound,
            "--generator",
            model,
            "--scheduler",
            name,
            "--num-inference-steps",
            "4",
        )
        assert run("image-to-audio", photos / "cat.png", *arguments)[0] == 0
        made.add(sound.read_bytes())
    assert len(made) == 5


@pytest.fixture
def server(photos: Path) -> Iterator[str]:
    """A web server on this machine for the photographs; `/slow.png` does not answer."""

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(photos))

        def do_GET(self) -> None:
            if self.path.startswith("/slow.png"):
                stopped.wait()
            super().do_GET()

        def log_message(self, *_: object, **__: object) -> None:
            pass

    stopped = threading.Event()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    stopped.set()
    web.shutdown()
    web.server_close()


def test_photographs_come_from_the_web(
    run: Run, model: Path, photos: Path, server: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    status, _, complaint = run(
        "image-to-audio",
        *(f"{server}/cat.png?size=large", f"{server}/absent.png", "-o", out, "--generator", model),
    )
    assert status == 1
    assert f"skipped: {server}/absent.png can't be fetched" in complaint
    assert list(sounds_in(out)) == ["cat.wav"]
    assert run("image-to-audio", photos / "cat.png", "-o", out, "--generator", model)[0] == 0
    assert (out / "cat.wav").read_bytes() == (out / "cat-2.wav").read_bytes()


def test_an_interrupted_run_keeps_what_is_finished(
    model: Path, photos: Path, server: str, tmp_path: Path, samples: int
) -> None:
    out = tmp_path / "out"
    # Each is given up after half a minute: on a busy machine one alone may be, before the signal.
    slow = [f"{server}/slow.png?{number}" for number in range(9)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "clip2clap", "image-to-audio"),
            *(photos / "cat.png", *slow, "-o", out, "--generator", model),
            *("--batch-size", "1", "--json"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (out / "cat.wav").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    report = json.loads(shown)
    assert report["interrupted"]
    assert [sound["output"] for sound in report["sounds"]] == [str(out / "cat.wav")]
    assert list(sounds_in(out)) == ["cat.wav"]
    assert len(load_audio(out / "cat.wav")[0]) == samples


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--translator: "),
        (["--translator", "x", "--num-candidates", "2"], "has a text-only CLAP. Add"),
    ],
)
def test_audioldm_needs_a_translator_and_for_candidates_a_ranker(
    run: Run, photos: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    (tmp_path / "audioldm").mkdir()
    (tmp_path / "audioldm" / "model_index.json").write_text('{"_class_name": "AudioLDMPipeline"}')
    status, _, complaint = run(
        "image-to-audio",
        *(photos, "-o", tmp_path / "out", "--generator", tmp_path / "audioldm", *options),
    )
    assert status == 2
    assert words in complaint
    assert complaint.count("\n") == 1


def test_an_audioldm_checkpoint_finds_the_clip_of_its_translator(
    run: Run,
    model: Path,
    audioldm_folder: Path,
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    translator = write_translator(tmp_path / "translator", clip_folder, audioldm_folder)
    for name, options in (
        ("ours", ["--generator", model]),
        ("theirs", ["--generator", audioldm_folder, "--translator", translator]),
    ):
        arguments = ("-o", tmp_path / f"{name}.wav", "--num-inference-steps", "2", *options)
        assert run("image-to-audio", photos / "cat.png", *arguments)[0] == 0
    assert (tmp_path / "ours.wav").read_bytes() == (tmp_path / "theirs.wav").read_bytes()


def test_a_translator_for_another_generator_is_refused_with_both_names(
    run: Run,
    audioldm_folder: Path,
    foreign_folder: Path,
    clip_folder: Path,
    photos: Path,
    tmp_path: Path,
) -> None:
    translator = write_translator(tmp_path / "translator", clip_folder, foreign_folder)
    status, _, complaint = run(
        "image-to-audio",
        *(photos / "cat.png", "-o", tmp_path / "out"),
        *("--generator", audioldm_folder, "--translator", translator),
    )
    assert (status, complaint.count("\n")) == (2, 1)
    assert str(audioldm_folder) in complaint
    assert str(foreign_folder) in complaint


def test_candidates_are_ranked_by_a_generator_whose_clap_hears(
    run: Run, musicldm_folder: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    translator = write_translator(tmp_path / "translator", clip_folder, musicldm_folder)

    def best_of(count: int) -> dict:
        status, shown, _ = run(
            "image-to-audio",
            *(
                photos / "cat.png",
                "-o",
                tmp_path / f"{count}.wav",
                "--json",
                "--num-inference-steps",
                "2",
            ),
            *(
                "--generator",
                musicldm_folder,
                "--translator",
                translator,
                "--num-candidates",
                count,
            ),
        )
        assert status == 0
        return json.loads(shown)["sounds"][0]

    assert "similarity" not in best_of(1)
    assert best_of(2)["similarity"] <= best_of(5)["similarity"] <= 1


def test_a_torchvision_that_does_not_fit_is_named_in_one_line(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    information = tmp_path / "torchvision-0.28.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "clip2clap", "image-to-audio"),
            *(photos / "cat.png", "-o", tmp_path / "out", "--generator", model),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: torchvision 0.28.0 does not fit torch")
    assert "pip uninstall torchvision" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def demo_models(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Put the tiny model in the demo models' place; gives the three kinds' prompt vectors."""
    folder = tmp_path / "demo_models"
    folder.mkdir()
    prompts = torch.nn.functional.normalize(
        torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    )
    (folder / "kinds.json").write_text(json.dumps({"kinds": ["cat", "dog", "sea"]}))
    save_file({"clap_text": prompts}, folder / "kinds.safetensors")
    monkeypatch.setattr("clip2clap.cli.demo.DEMO_FOLDER", folder)
    preset = replace(PRESETS["generator"]["demo"], repo_id=str(model))
    monkeypatch.setitem(PRESETS["generator"], "demo", preset)
    return prompts


def test_the_demo_writes_its_files_and_tells_the_nearest_kinds(
    run: Run,
    demo_models: torch.Tensor,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, shown, _ = run("demo", "--json", "--seed", "4")
    assert status == 0
    report = json.loads(shown)
    out = Path("clip2clap-demo")
    assert sorted(report["files"].values()) == sorted(str(path) for path in out.iterdir())
    with Image.open(out / "photograph.jpg") as photograph:
        assert photograph.size == (451, 300)
    Image.fromarray(chelsea()).save("chelsea.png")

    pipeline = ImageToAudioPipeline.from_pretrained(model)
    result = pipeline("chelsea.png", generator=[torch.Generator().manual_seed(4)])
    assert isinstance(result, ImageToAudioOutput)
    waveform, _ = load_audio(out / "sound.wav")
    np.testing.assert_allclose(waveform, result.audios[0], atol=1e-4)
    similarities = dict(
        zip(("cat", "dog", "sea"), (demo_models @ result.audio_embeds[0]).tolist(), strict=True)
    )
    nearest = [(entry["kind"], entry["similarity"]) for entry in report["nearest"]]
    assert nearest == [
        (kind, pytest.approx(similarities[kind], abs=1e-3))
        for kind in sorted(similarities, key=lambda kind: -similarities[kind])
    ]
    stages = ["load", "encode", "translate", "denoise", "decode", "write"]
    assert list(report["seconds"]) == stages

    status, shown, _ = run("demo", "--seed", "4")
    assert status == 0
    for word in [*stages, *similarities, "total", "clip2clap-demo/index.html", "Next: clip2clap"]:
        assert word in shown


def test_the_demo_takes_a_photograph_and_leaves_other_files_alone(
    run: Run, demo_models: torch.Tensor, photos: Path, tmp_path: Path
) -> None:
    mine = photos / "photograph.jpg"
    mine.write_text("mine")
    status, _, complaint = run("demo", photos / "cat.png", "-o", photos)
    assert status == 2
    assert "already has photograph.jpg, not written by clip2clap demo" in complaint
    assert mine.read_text() == "mine"
    assert run("demo", photos / "cat.png", "-o", tmp_path / "out")[0] == 0
    with Image.open(tmp_path / "out" / "photograph.jpg") as photograph:
        assert photograph.size == (60, 40)
    status, _, complaint = run("demo", photos / "absent.png", "-o", tmp_path / "out")
    assert (status, complaint.count("\n")) == (2, 1)
    assert "absent.png does not exist" in complaint


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of pairs that a rotation joins, so that a translator can be fitted to them."""
    draw = torch.Generator().manual_seed(0)
    spaces = {
        "clip_text": EmbeddingSpace("clip", "a/clip", "text", 8, True, "c1"),
        "clap_text": EmbeddingSpace("clap", "cvssp/audioldm-s-full-v2", "text", 8, True, "d1"),
    }
    texts = torch.nn.functional.normalize(torch.randn(200, 8, generator=draw))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    with TableWriter(tmp_path / "table", spaces, dtype="float32") as writer:
        ids = [str(row) for row in range(len(texts))]
        captions = {"caption": [f"caption {row}" for row in ids]}
        writer.append(ids, captions, {"clip_text": texts, "clap_text": texts @ rotation})
    return tmp_path / "table"


def test_train_writes_a_translator_and_shows_it_beside_chance(
    run: Run, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "translator"
    status, shown, _ = run("train", table, "-o", out, "--architecture", "procrustes")
    assert status == 0
    rows = {line[:20].strip(): line[20:].split() for line in shown.splitlines()}
    assert rows["recall at 1"][0] == "1.000"
    assert float(rows["recall at 1"][1]) < 0.3
    assert f"{out}: clip_text -> clap_text, 180 pairs, fitted in" in shown
    assert (
        "Next: clip2clap image-to-audio IMAGE -o audio --generator cvssp/audioldm-s-full-v2 "
        f"--translator {out}" in shown
    )
    translator = AutoTranslator.from_pretrained(out)
    assert translator.source_dim == translator.target_dim == 8
    # The way back is used with a decoder of pictures.
    columns = ("--source", "clap_text", "--target", "clip_text")
    status, shown, _ = run(
        "train", table, "-o", tmp_path / "b", "--architecture", "ridge", *columns
    )
    assert status == 0
    assert "Next: clip2clap audio-to-image AUDIO -o images --decoder DECODER" in shown


def test_train_hands_its_options_over_and_gives_the_report_as_json(
    run: Run, table: Path, tmp_path: Path
) -> None:
    status, shown, _ = run(
        *("train", table, "-o", tmp_path / "translator", "--json", "--source", "clip_text"),
        *(
            "--target",
            "clap_text",
            "--item",
            "caption",
            "--validation",
            "0.2",
            "--hidden-size",
            "32",
        ),
        *("--loss", "infonce", "--temperature", "0.1", "--epochs", "3", "--patience", "0"),
        *("--monitor", "cosine", "--batch-size", "16", "--learning-rate", "0.002", "--seed", "7"),
        *("--noise", "0.02", "--init", "random"),
    )
    assert status == 0
    report = json.loads(shown)
    expected = {
        "source": "clip_text",
        "target": "clap_text",
        "item": "caption",
        "validation": 0.2,
        "hidden_size": 32,
        "loss": "infonce",
        "temperature": 0.1,
        "epochs": 3,
        "patience": None,
        "monitor": "cosine",
        "batch_size": 16,
        "learning_rate": 0.002,
        "noise": 0.02,
        "init": "random",
        "seed": 7,
        "architecture": "mlp",
    }
    assert {name: report["settings"][name] for name in expected} == expected
    assert [epoch["epoch"] for epoch in report["history"]] == [1, 2, 3]
    assert report["pairs"]["validation"] == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "-1"], "--learning-rate: expected a positive number, got -1"),
        (["--source", "clip_image"], "clip_image"),
        (["--loss", "hinge"], "got 'hinge'"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_train_refuses_what_makes_no_sense_in_one_line(
    run: Run, table: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    status, shown, complaint = run("train", table, "-o", tmp_path / "translator", *options)
    assert (status, shown) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert words in complaint


def test_train_names_a_table_that_is_not_there(run: Run, tmp_path: Path) -> None:
    status, _, complaint = run("train", tmp_path / "absent", "-o", tmp_path / "translator")
    assert (status, complaint.count("\n")) == (2, 1)
    assert "absent" in complaint


def test_sweep_trains_the_way_back_and_says_which_model_is_best(
    run: Run, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    grid = ["--hidden-size", "4,8", "--loss", "cosine,cosine:1+infonce:0.1", "--epochs", "2"]
    command = ["sweep", table, "-o", out, "--source", "clap", "--target", "clip", *grid]
    status, shown, _ = run(*command)
    assert status == 0
    names = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert names == sorted(
        f"{table.name}-{hidden}-{loss}"
        for hidden in (4, 8)
        for loss in ("cosine", "cosine1+infonce0.1")
    )
    assert str(out / "report.html") in shown.replace("\n", "")
    status, shown, _ = run(
        "sweep", table, "-o", out, "--source", "clap", "--target", "clip", *grid, "--json"
    )
    rows = json.loads(shown)
    assert status == 0
    assert {row["name"] for row in rows} == set(names)
    assert {(row["source"], row["target"]) for row in rows} == {("clap_text", "clip_text")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hidden-size", "256,wide"], "--hidden-size: expected numbers separated by commas"),
        (["--loss", "cosine,hinge"], "got 'hinge'"),
        (["--tracker", "paper"], "'paper' isn't installed"),
        (["--source", "clip_image"], "no embeddings 'clip_image'"),
    ],
)
def test_sweep_refuses_what_makes_no_sense_in_one_line(
    run: Run, table: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    status, shown, complaint = run("sweep", table, "-o", tmp_path / "sweep", *options)
    assert (status, shown) == (2, "")
    assert complaint.count("\n") == 1
    assert words in complaint
