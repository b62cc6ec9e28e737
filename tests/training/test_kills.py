"""Runs that are killed at random moments, most of them during writes, and resumed.

CLIP2CLAP_KILLS sets the number of kills of each kind of run.
"""

import logging
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import WhisperConfig

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.training.captioning.config import CaptionerConfig
from clip2clap.training.captioning.data import CaptionedVectors
from clip2clap.training.captioning.train import train_captioner
from clip2clap.training.config import TrainingConfig
from clip2clap.training.finetuning.config import FineTuningConfig
from clip2clap.training.finetuning.files import read_labeled_files
from clip2clap.training.finetuning.run import finetune
from clip2clap.training.speech import networks
from clip2clap.training.speech.config import SpeechTrainingConfig
from clip2clap.training.speech.train import train_speech_encoder
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.training.sweep.run import sweep
from clip2clap.training.train import train

from .builders import QUICK, learnable

KILLS = int(os.environ.get("CLIP2CLAP_KILLS", "2"))
RATE = 16_000


def run_train(out: Path, inputs: Path) -> None:
    config = TrainingConfig(hidden_size=16, epochs=10, batch_size=64, patience=None)
    train(learnable(), out, config, checkpoint_seconds=0)


def run_sweep(out: Path, inputs: Path) -> None:
    grid = SweepGrid(hidden_size=8, loss=("cosine", "infonce"), epochs=5)
    sweep(learnable(), out, grid=grid, base=QUICK, device="cpu", checkpoint_seconds=0)


def run_finetune(out: Path, inputs: Path) -> None:
    config = FineTuningConfig(epochs=3, batch_size=8, validation=0.3, patience=None)
    clap = ClapEncoder.from_pretrained(inputs / "musicldm")
    finetune(clap, read_labeled_files(inputs / "labels"), out, config)


def run_captioner(out: Path, inputs: Path) -> None:
    space = EmbeddingSpace("clap", "some/clap", "text", 8, True, "c1a9")
    captions = [f"a dog barks {'again ' * (row % 3)}".strip() for row in range(48)]
    embeds = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    config = CaptionerConfig(
        language_model=str(inputs / "language_model"),
        prefix_length=2,
        hidden_size=16,
        epochs=4,
        batch_size=16,
        patience=None,
    )
    vectors = CaptionedVectors.of(embeds, captions, source_space=space)
    train_captioner(vectors, out, config, checkpoint_seconds=0)


def run_speech(out: Path, inputs: Path) -> None:
    config = SpeechTrainingConfig(window_s=1, layers=1, pooling_size=32, epochs=4, batch_size=8)
    table = inputs / "spoken.csv"
    train_speech_encoder(table, out, "demo", config, device="cpu", checkpoint_seconds=0)


@pytest.fixture
def inputs(
    tmp_path: Path, tiny_language_model, musicldm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Write what the runs read, and let speech encoders begin with a small random network."""
    folder, noise = tmp_path / "inputs", np.random.default_rng(0)
    for part in tiny_language_model():
        part.save_pretrained(folder / "language_model")
    (folder / "musicldm").symlink_to(musicldm_folder)
    lines = ["audio,caption,item,split"]
    for row in range(24):
        file = folder / "labels" / ("hiss", "blip")[row % 2] / f"{row}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.1 * noise.standard_normal(RATE // 4), RATE)
        split = ("validation", "test", "train", "train")[row % 4]
        lines.append(f"{file.relative_to(folder)},caption {row},{row},{split}")
    (folder / "spoken.csv").write_text("\n".join([*lines, ""]))
    small = WhisperConfig(d_model=32, encoder_layers=2, encoder_attention_heads=2)
    monkeypatch.setattr(networks, "_random", lambda _: small)
    return folder


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of all models of a folder, by file and name."""
    return {
        f"{path.relative_to(folder)}/{name}": weight
        for path in folder.rglob("*.safetensors")
        for name, weight in load_file(path).items()
    }


@pytest.mark.parametrize("run", [run_train, run_sweep, run_finetune, run_captioner, run_speech])
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(
    run: Callable[[Path, Path], None], inputs: Path, tmp_path: Path, start_fork: Callable[..., int]
):
    started = time.monotonic()
    AcceleratorState._reset_state(reset_partial_state=True)
    run(tmp_path / "whole", inputs)
    took = time.monotonic() - started
    draws = random.Random(0)
    killed = 0
    for _ in range(100 * KILLS):
        out = tmp_path / f"killed{killed // 3}"
        child = start_fork(run, out, inputs)
        time.sleep(draws.uniform(0, took / 2))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if killed == KILLS:
            break
    expected = weights_of(tmp_path / "whole")
    assert expected
    for out in tmp_path.glob("killed*"):
        run(out, inputs)
        assert files_of(out) == files_of(tmp_path / "whole")
        found = weights_of(out)
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name], atol=1e-4, rtol=1e-4)
    assert killed == KILLS
    logging.info("%s: %d kills (%.1f s)", run.__name__, killed, took)
