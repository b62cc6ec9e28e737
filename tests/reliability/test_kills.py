"""Commands that are killed at random moments, and run again.

By default few kills of the quickest commands; for a long run of all
`CLIP2CLAP_KILLS=100 pytest tests/reliability -m "slow or not slow" --log-cli-level=INFO`.
"""

import hashlib
import json
import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap.cli.app import main
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter

KILLS = int(os.environ.get("CLIP2CLAP_KILLS", "2"))
# Hold times or paths; all else is the same in every run.
CHANGING = (".json", ".html", ".csv", ".lock")


# Commands that write into `out`.
COMMANDS = {
    "extract": "extract captions.csv --pair caption-caption --demo --batch-size 8 -o out/table",
    "norms": "norms table -o out/norms",
    "train": "train table --hidden-size 16 --epochs 6 --patience 0 -o out/translator",
    "sweep": (
        "sweep table --plus table2 --hidden-size 8 --loss cosine,mse --epochs 3 -o out/sweep"
    ),
    "evaluate": "evaluate ridge --table table --split all -o out/report",
    "image-to-audio": (
        "image-to-audio image.png --num-inference-steps 1 --num-candidates 1 --duration-s 1 "
        "--spectrogram -o out/audio"
    ),
    "audio-to-image": (
        "audio-to-image noise.wav --num-inference-steps 1 --overwrite -o out/images"
    ),
    "film": (
        "audio-to-image noise.wav --film --fps 4 --film-size 64x32 --overwrite -o out/film.mp4"
    ),
    "paint": (
        "paint noise.wav --num-iterations 3 --cutouts 2 --width 16 --height 16 --overwrite -o out/p"
    ),
    "demo": "demo image.png -o out/demo",
    "guide": (
        "guide --target-text dog:1 --num-inference-steps 2 --height 32 --width 32 --cutouts 1 "
        "--overwrite -o out/guided.png"
    ),
    "repeat": "repeat made.wav --overwrite -o out/again.wav",
    "classify": "classify image.png noise.wav --labels dog,cat -o out/labels.jsonl",
    "fit": "fit --dataset captions.csv --demo -o out/fitted",
    "benchmark": "benchmark esc50 esc50 --partial --resamples 100 -o out/esc50",
    "index": "index . -o out/library",
    "import-translator": "import-translator perceptron.pth --overwrite -o out/imported",
}
QUICK = ("extract", "norms", "train")
# What the commands import first when they need it, which takes longer than what they write.
PRELOADED = [
    *("av", "brisque", "faiss", "matplotlib.figure", "pandas", "pydantic", "pyloudnorm"),
    "clip2clap.cli.app",
    "clip2clap.embeddings.backends.transformers",
    "clip2clap.embeddings.datasets.registry",
    "clip2clap.embeddings.extraction.pipeline",
    "clip2clap.embeddings.norms.report",
    "clip2clap.evaluation.benchmarks.run",
    "clip2clap.evaluation.report.page",
    "clip2clap.inference.audio_to_image",
    "clip2clap.inference.batch.run",
    "clip2clap.inference.film.make",
    "clip2clap.inference.image_to_audio",
    "clip2clap.inference.painting.canvas",
    "clip2clap.models.spectral_vocoder",
    "clip2clap.models.yamnet_clap",
    "clip2clap.search.classify",
    "clip2clap.search.update",
    "clip2clap.training.finetuning.run",
    "clip2clap.training.sweep.report",
    "clip2clap.training.sweep.run",
    "clip2clap.training.train",
    "sklearn.linear_model",
    "transformers.models.clip.image_processing_pil_clip",
    "transformers.models.efficientnet.modeling_efficientnet",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.mobilenet_v1.modeling_mobilenet_v1",
    "transformers.models.vision_text_dual_encoder.modeling_vision_text_dual_encoder",
]
# Commands that write what others read.
BEFORE = {
    "evaluate": "train table --hidden-size 8 --epochs 1 -o ridge",
    "repeat": "image-to-audio image.png --num-inference-steps 1 --duration-s 1 -o made.wav",
}


def _run(folder: Path, line: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    main(line.split())


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Return a maker of processes that have the libraries loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write what the commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    random_state = np.random.default_rng(0)
    pixels = random_state.integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    soundfile.write(folder / "noise.wav", 0.1 * random_state.standard_normal(16_000), 16_000)
    lines = [f"{row},a dog number {row}" for row in range(24)]
    (folder / "captions.csv").write_text("\n".join(["id,caption", *lines, ""]))
    generator = torch.Generator().manual_seed(0)
    spaces = {
        f"{family}_text": EmbeddingSpace(family, f"a/{family}", "text", 8, True, family)
        for family in ("clip", "clap")
    }
    layers = (torch.nn.Linear(512, 512) for _ in range(3))
    torch.save(torch.nn.Sequential(*layers).state_dict(), folder / "perceptron.pth")
    (folder / "esc50" / "audio").mkdir(parents=True)
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for label in range(50):
        fold, name = label % 5 + 1, f"{label}.wav"
        soundfile.write(folder / "esc50" / "audio" / name, random_state.random(2000) - 0.5, 16_000)
        rows.append(f"{name},{fold},{label},label {label},True,{label},A")
    (folder / "esc50" / "meta").mkdir()
    (folder / "esc50" / "meta" / "esc50.csv").write_text("\n".join([*rows, ""]))
    for name in ("table", "table2"):
        embeds = torch.nn.functional.normalize(torch.randn(64, 8, generator=generator))
        ids = [f"{name}-{row}" for row in range(64)]
        with TableWriter(folder / name, spaces) as writer:
            writer.append(ids, {"caption": ids}, dict.fromkeys(spaces, embeds))
    return folder


def _start(context: ForkServerContext, folder: Path, line: str) -> BaseProcess:
    process = context.Process(target=_run, args=(folder, line))
    process.start()
    return process


def _changes(process: BaseProcess, folder: Path) -> Iterator[int]:
    """Yield a count at each change of a folder's listing, while a process runs."""
    count, before = 0, None
    while process.is_alive():
        paths = [
            Path(at, name) for at, *both in os.walk(folder) for names in both for name in names
        ]
        now = sorted((path.name, _size(path)) for path in paths)
        if now != before:
            yield count
            count, before = count + 1, now
        time.sleep(0.002)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _contents(folder: Path) -> dict[str, str]:
    """Return the files of a folder with hashes of what is the same in every run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            same = not path.name.endswith(CHANGING)
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if same else ""
            found[str(path.relative_to(folder))] = digest
    return found


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS],
)
def test_a_killed_command_leaves_nothing_that_its_next_run_does_not_mend(
    name: str, processes, inputs: Path, tmp_path: Path
) -> None:
    line = COMMANDS[name]
    folder = tmp_path / "work"

    def fresh() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(inputs, folder)
        (folder / "out").mkdir()

    fresh()
    if name in BEFORE:
        process = _start(processes, inputs, BEFORE[name])
        process.join()
        assert process.exitcode == 0
        fresh()
    process = _start(processes, folder, line)
    start = time.perf_counter()
    changes = len(list(_changes(process, folder / "out")))
    duration = time.perf_counter() - start
    process.join()
    assert process.exitcode == 0
    expected = _contents(folder / "out")

    chance, killed, moments = random.Random(name), 0, []
    fresh()
    while killed < KILLS or moments:
        process = _start(processes, folder, line)
        if killed < KILLS and len(moments) < 3:
            moments.append(_kill(process, folder / "out", chance, changes, duration))
        process.join()
        if process.exitcode:
            assert process.exitcode == -signal.SIGKILL, f"killed after {moments}"
            killed += 1
            _check_whole_files(folder / "out")
        else:
            assert _contents(folder / "out") == expected, f"killed after {moments}"
            moments = []
            fresh()
    logging.info("%s: %d kills (%.1f s)", name, killed, duration)


def _kill(
    process: BaseProcess, folder: Path, chance: random.Random, changes: int, duration: float
) -> str:
    """Kill a process at a random moment, soon after a change of a folder in most cases."""
    if chance.random() < 0.7:
        wanted = chance.randrange(changes)
        for count in _changes(process, folder):
            if count == wanted:
                break
        moment = f"change {wanted} of {changes}"
        time.sleep(chance.uniform(0, 0.01))
    else:
        seconds = chance.uniform(0, duration)
        process.join(seconds)
        moment = f"{seconds:.3f} s"
    process.kill()
    return moment


@pytest.mark.slow
def test_a_batch_that_is_killed_many_times_equals_one_that_is_not(
    processes: ForkServerContext, tmp_path: Path
) -> None:
    random_state, chance = np.random.default_rng(0), random.Random(0)
    for name in ("whole", "killed"):
        (tmp_path / name / "photos").mkdir(parents=True)
    for number in range(40):
        image = Image.fromarray(random_state.integers(0, 256, (32, 32, 3), np.uint8))
        for name in ("whole", "killed"):
            image.save(tmp_path / name / "photos" / f"{number:02d}.png")
    line = (
        "image-to-audio photos -o out --num-inference-steps 1 --num-candidates 2 --variations 2 "
        "--duration-s 1 --batch-size 8 --dtype fp32"
    )
    first = _start(processes, tmp_path / "whole", line)
    first.join()
    whole, out = tmp_path / "whole" / "out", tmp_path / "killed" / "out"
    made: dict[Path, int] = {}
    for _ in range(max(KILLS, 20)):
        process = _start(processes, tmp_path / "killed", line)
        wanted = chance.randrange(12)
        for count in _changes(process, out):
            if count == wanted:
                break
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        _check_whole_files(out)
        # What the manifest has is not made again.
        lines = (out / "manifest.jsonl").read_text() if out.exists() else ""
        for path in out.glob("*.wav"):
            if f'"{path.name}"' in lines:
                assert made.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    process = _start(processes, tmp_path / "killed", line)
    process.join()
    # One step is too few for some noise, whose output is not finite.
    assert process.exitcode == first.exitcode
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert _contents(out).keys() == _contents(whole).keys()
    assert len((out / "manifest.jsonl").read_text().splitlines()) == 40
    for path in whole.glob("*.wav"):
        # Batches of other images round differently, in bfloat16 by more.
        expected, samples = (soundfile.read(folder / path.name)[0] for folder in (whole, out))
        np.testing.assert_allclose(samples, expected, atol=1e-3)


def _check_whole_files(folder: Path) -> None:
    """Open every file under its final name."""
    for path in folder.rglob("*"):
        if any(part.endswith(".part") for part in path.parts) or not path.is_file():
            continue
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix in (".png", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".wav":
            assert soundfile.info(path).frames
