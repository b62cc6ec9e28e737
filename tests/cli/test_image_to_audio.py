"""`clip2clap image-to-audio`."""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

from clip2clap.cli.app import main
from clip2clap.core.version import __version__
from clip2clap.inference.batch.jobs import image_stem
from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline
from clip2clap.media.audio import load_audio

from .builders import sounds_in, write_translator

Run = Callable[..., tuple[int, str, str]]


def assert_same_samples(first: Path, second: Path) -> None:
    """Compare what is heard; their tags name what they were made from."""
    assert np.array_equal(load_audio(first)[0], load_audio(second)[0])


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
        ("--seed \\d", "'--seed': expected a valid integer, got '\\\\d'."),
        ("--seed 1e3", "'--seed': expected a valid integer, got '1e3'."),
        (
            "--audio-format aac",
            "'--audio-format': 'aac' is not one of 'wav', 'flac', 'ogg', 'mp3'",
        ),
        ("--channels 3", "--channels: expected 1 to 2, got 3."),
        ("--loudness 5", "--loudness: expected from -70 to 0 LUFS, got 5.0."),
        ("--true-peak 1", "--true-peak: expected from -60 to 0 dBTP, got 1.0."),
        ("-o a.flac --bit-depth float", "--bit-depth: flac is of 16 or 24 bits"),
        (
            "-o a.opus --sampling-rate 44100",
            "--sampling-rate: opus has no sampling rate of 44100 Hz, but of 8000, 12000, 16000",
        ),
        ("--num-candidates 1 --ranker x", "--ranker: there is nothing to rank with one candidate."),
        ("--low-memory --device cuda", "--low-memory: the models stay on disk"),
        ("--ranker-translator x", "--ranker-translator: it maps into the space of a ranker."),
        ("--actors 2", "--actors: goes with --engine ray."),
        ("--seeds 1", "No such option: --seeds"),
        ("-o sound.m4a", "--output: .m4a cannot be written. Use .wav, .flac, .ogg, .mp3 or .opus"),
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".lock", "Another run is writing to"),
        ("index.html", "index.html was not written by clip2clap image-to-audio."),
        ("manifest.jsonl", "manifest.jsonl was not written by clip2clap image-to-audio."),
    ],
)
def test_a_folder_of_others_is_refused_before_models_are_loaded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setattr(
        "clip2clap.cli.image_to_audio.load_pipeline", lambda *_, **__: pytest.fail("loaded")
    )
    image, file = tmp_path / "a.png", tmp_path / "out" / name
    Image.new("RGB", (8, 8)).save(image)
    file.parent.mkdir()
    file.write_text("mine")
    with filelock.FileLock(file) if name == ".lock" else contextlib.nullcontext():
        status, _, complaint = run("image-to-audio", image, "-o", file.parent)
        assert status == 2
        assert words in complaint
        assert [path.name for path in file.parent.iterdir()] == [name]


def test_one_file_name_for_several_images_is_refused(run: Run, tmp_path: Path) -> None:
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
def test_an_audio_file_is_named_after_its_image(source: str, stem: str) -> None:
    assert image_stem(source) == stem


def test_each_image_gets_an_audio_file_of_its_name_and_clashes_are_solved(
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


def test_audio_depends_on_its_seed_and_not_on_batches_or_neighbours(
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
    last = together["results"][2]
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


def test_a_seed_is_that_of_the_first_image_s_generator_in_python(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    images = [photos / "cat.png", photos / "dog.jpg"]
    command = ("image-to-audio", *images, "--generator", model, "--num-candidates", 1, "--seed", 3)
    assert run(*command, "-o", tmp_path, "--bit-depth", "float", "--fade-s", 0)[0] == 0
    cat, dog = (load_audio(tmp_path / name)[0] for name in ("cat.wav", "dog.wav"))
    pipeline = ImageToAudioPipeline.from_pretrained(model)

    def assert_made_by(generator: Any, *expected: np.ndarray) -> None:
        audios = pipeline(images[: len(expected)], num_candidates=1, generator=generator).audios
        np.testing.assert_allclose(audios, np.stack(expected), atol=1e-5)

    assert_made_by([3, 4], cat, dog)
    assert_made_by(3, cat)
    assert_made_by(torch.Generator().manual_seed(3), cat)


def test_an_unreadable_image_is_skipped_and_the_others_are_made(
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
    one = out / "one.wav"
    assert run("image-to-audio", cat, "-o", one, "--generator", model, "--overwrite")[0] == 0
    assert len(sounds_in(out)) == 4
    assert_same_samples(one, out / "cat-2.wav")


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
    assert [(each["input"], each["seed"]) for each in plain["results"]] == [
        ("a dog barks", 2),
        ("rain", 3),
    ]
    assert sorted(sounds_in(tmp_path / "plain")) == ["a-dog-barks.wav", "rain.wav"]
    waveform, rate = load_audio(tmp_path / "plain" / "a-dog-barks.wav")
    assert (len(waveform), rate) == (samples, 16_000)
    pipeline = ImageToAudioPipeline.from_pretrained(model, torch_dtype=torch.float32)
    result = pipeline(prompt="a dog barks", generator=[torch.Generator().manual_seed(2)])
    assert isinstance(result, ImageToAudioOutput)
    middle = slice(80, -80)  # without the fades
    np.testing.assert_allclose(waveform[middle], result.audios[0][middle], atol=1e-4)

    away = generate("away", "--negative-prompt", "rain", "--seed", "2")
    assert away["settings"]["negative_prompt"] == "rain"
    guided, _ = load_audio(tmp_path / "away" / "a-dog-barks.wav")
    assert np.abs(guided - waveform).max() > 1e-3


def test_audio_too_long_for_the_memory_gets_one_line(
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
    assert status == 1
    skipped, _ = complaint.splitlines()
    assert skipped == (
        f"skipped: {photos / 'cat.png'}: There is not enough memory for it. Make the audio "
        "shorter, or use bfloat16 if the models are not in it."
    )


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
            "--guidance-end",
            "1",
            "--dtype",
            "fp32",
            "--device",
            "cpu",
        ),
    )
    assert status == 0
    report = json.loads(shown)
    assert report.pop("seconds").keys() == {"load", "generate"}
    settings = report.pop("settings")
    (result,) = report["results"]
    assert len(result["heard_as"]) == 3
    assert report == {
        "version": 1,
        "clip2clap": __version__,
        "results": [
            {
                "input": str(photos / "cat.png"),
                "output": str(out / "cat.wav"),
                "spectrogram": str(out / "cat-spectrogram.png"),
                "seed": 3,
                "seconds": 0.016,
                "sampling_rate": 16_000,
                "channels": 1,
                "loudness": result["loudness"],
                "true_peak": result["true_peak"],
                "gain": 0.0,
                "limited": False,
                "heard_as": result["heard_as"],
                "fits": result["fits"],
            }
        ],
        "skipped": [],
        "interrupted": False,
    }
    expected = {
        "generator": str(model),
        "translator": None,
        "clip": None,
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
        "batch_size": None,
        "spectrogram": True,
    }
    assert {name: settings[name] for name in expected} == expected


def test_another_scheduler_makes_other_audio(
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


def test_images_come_from_the_web(
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
    # Another machine of the network needs a permission, the user's own does not.
    refused = run("image-to-audio", "http://10.0.0.7/a.png", "-o", tmp_path, "--generator", model)
    assert refused[0] == 1
    assert "no public address. Load it with --allow-private, or download" in refused[2]
    assert run("image-to-audio", photos / "cat.png", "-o", out, "--generator", model)[0] == 0
    assert_same_samples(out / "cat.wav", out / "cat-2.wav")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_finished(
    start_fork: Callable[..., int],
    model: Path,
    photos: Path,
    server: str,
    tmp_path: Path,
    samples: int,
    number: int,
) -> None:
    out = tmp_path / "out"
    # Each is given up after half a minute: on a busy machine one alone may be, before the signal.
    slow = [f"{server}/slow.png?{number}" for number in range(9)]
    command = [
        *("image-to-audio", photos / "cat.png", *slow, "-o", out, "--generator", model),
        *("--allow-private", "--batch-size", "1", "--json"),
    ]

    def run_with_files() -> None:
        # Where the tests run in the background, SIGINT is ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with (
            (tmp_path / "stdout").open("w") as sys.stdout,
            (tmp_path / "stderr").open("w") as sys.stderr,
            pytest.raises(SystemExit) as ended,
        ):
            main([str(word) for word in command])
        os._exit(int(str(ended.value.code)))

    process = start_fork(run_with_files)
    deadline = time.monotonic() + 300
    while not (out / "cat.wav").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process, number)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    shown, complaint = ((tmp_path / name).read_text() for name in ("stdout", "stderr"))
    assert status == 130, complaint
    assert "Traceback" not in complaint
    report = json.loads(shown)
    assert report["interrupted"]
    assert [sound["output"] for sound in report["results"]] == [str(out / "cat.wav")]
    assert list(sounds_in(out)) == ["cat.wav"]
    assert len(load_audio(out / "cat.wav")[0]) == samples


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--translator: "),
        (["--translator", "demo", "--num-candidates", "2"], "has a text-only CLAP. Add"),
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
    assert_same_samples(tmp_path / "ours.wav", tmp_path / "theirs.wav")


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


def test_candidates_are_ranked_by_a_generator_whose_clap_has_an_audio_encoder(
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
        return json.loads(shown)["results"][0]

    assert "similarity" not in best_of(1)
    assert best_of(2)["similarity"] <= best_of(5)["similarity"] <= 1


def test_a_table_gives_ranked_variations_and_is_not_made_twice(
    run: Run, musicldm_folder: Path, clip_folder: Path, photos: Path, tmp_path: Path
) -> None:
    translator = write_translator(tmp_path / "translator", clip_folder, musicldm_folder)
    table, out = tmp_path / "jobs.csv", tmp_path / "out"
    table.write_text("image,prompt,seed\nphotos/cat.png,,7\n,rain,\nphotos/dog.jpg,rain,\n")
    command = (
        *("image-to-audio", table, "-o", out, "--json", "--variations", "2"),
        *("--num-candidates", "3", "--num-inference-steps", "2"),
        *("--generator", musicldm_folder, "--translator", translator),
    )
    status, shown, complaint = run(*command)
    assert status == 1
    assert f"skipped: {table}, row 3: Expected an image or a prompt, got both." in complaint
    report = json.loads(shown)
    assert [(each["input"], each["seed"]) for each in report["results"]] == [
        (str(photos / "cat.png"), 7),
        ("rain", 1),
    ]
    for entry, stem in zip(report["results"], ("cat", "rain"), strict=True):
        paths = [audio["output"] for audio in entry["audios"]]
        assert paths == [str(out / f"{stem}-{number}.wav") for number in (1, 2)]
        first, second = (audio["similarity"] for audio in entry["audios"])
        assert first >= second
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    again = json.loads(run(*command)[1])
    assert again["results"] == report["results"]
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.wav")} == before
    _, _, complaint = run(*(word for word in command if word != "--json"))
    assert f"4 audio files in {out} (4 from an earlier run)" in complaint
    status, _, complaint = run(*command, "-o", tmp_path / "one.wav")
    assert (status, complaint.count("\n")) == (2, 1)


@pytest.mark.parametrize("output", ["photos", "clip2clap-image-to-audio"])
def test_a_run_does_not_take_what_an_earlier_one_drew_for_images(
    run: Run,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    count = sum(1 for _ in photos.iterdir())
    (photos / "page").mkdir()
    Image.new("RGB", (8, 8)).save(photos / "page" / "1.png")  # of a book, say
    command = ("image-to-audio", tmp_path, "--recursive", "--spectrogram", "--json")
    for _ in range(2):
        _, shown, _ = run(*command, "-o", output, "--generator", model)
        assert len(json.loads(shown)["results"]) == count + 1
    _, shown, _ = run(
        *("image-to-audio", "photos/*.png", "photos/*.jpg", "--spectrogram", "--json"),
        *("-o", output, "--generator", model),
    )
    assert len(json.loads(shown)["results"]) == count
