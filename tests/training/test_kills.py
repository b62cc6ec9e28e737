"""Runs that are killed at random moments, most of them during writes, and resumed.

CLIP2CLAP_KILLS sets the number of kills of each kind of run.
"""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from clip2clap.training.config import TrainingConfig
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.training.sweep.run import sweep
from clip2clap.training.train import train
from clip2clap.translator.auto import AutoTranslator

from .builders import QUICK, learnable

KILLS = int(os.environ.get("CLIP2CLAP_KILLS", "2"))


def run_train(out: Path) -> None:
    config = TrainingConfig(hidden_size=16, epochs=10, batch_size=64, patience=None)
    train(learnable(), out, config, checkpoint_seconds=0)


def run_sweep(out: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    grid = SweepGrid(hidden_size=8, loss=("cosine", "infonce"), epochs=5)
    sweep(learnable(), out, grid=grid, base=QUICK, device="cpu", checkpoint_seconds=0)


def files_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights by model and name; any other file must be one of a finished run."""
    known = {"config.json", "training.json", "README.md", "results.csv", "report.html"}
    others = {path.name for path in folder.rglob("*") if path.is_file()} - known
    assert others == {"diffusion_pytorch_model.safetensors"}
    return {
        f"{path.parent.relative_to(folder)}/{name}": weight
        for path in folder.rglob("config.json")
        for name, weight in AutoTranslator.from_pretrained(path.parent).state_dict().items()
    }


@pytest.mark.parametrize("run", [run_train, run_sweep])
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(
    run: Callable[[Path], None], tmp_path: Path, start_fork: Callable[..., int]
):
    started = time.monotonic()
    run(tmp_path / "whole")
    took = time.monotonic() - started
    draws = random.Random(0)
    killed = 0
    for _ in range(100 * KILLS):
        out = tmp_path / f"killed{killed // 3}"
        child = start_fork(run, out)
        time.sleep(draws.uniform(0, took / 2))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if killed == KILLS:
            break
    expected = files_of(tmp_path / "whole")
    for out in tmp_path.glob("killed*"):
        run(out)
        found = files_of(out)
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            torch.testing.assert_close(weight, expected[name])
    assert killed == KILLS
