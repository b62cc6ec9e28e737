from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clip2clap.training.checkpoint import (
    flatten,
    load_checkpoint,
    optimizer_tensors,
    part_of,
    restore_optimizer,
    save_checkpoint,
    train_resumably,
)


class Line:
    """A weight that is pulled towards 1, a step at a time; may be killed."""

    def __init__(self, steps: int = 6, killed_at: int | None = None):
        self.weight = nn.Parameter(torch.zeros(3))
        self.optimizer = torch.optim.Adam([self.weight], lr=0.1)
        self.steps, self.killed_at, self.done = steps, killed_at, 0

    @property
    def is_over(self) -> bool:
        return self.done >= self.steps

    def advance(self) -> None:
        if self.done == self.killed_at:
            raise KeyboardInterrupt
        self.optimizer.zero_grad()
        (self.weight - 1).square().sum().backward()
        self.optimizer.step()
        self.done += 1

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = {"model": {"weight": self.weight}, "adam": optimizer_tensors(self.optimizer)}
        return flatten(parts), {"done": self.done}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.weight.data = part_of(tensors, "model")["weight"]
        restore_optimizer(self.optimizer, part_of(tensors, "adam"))
        self.done = values["done"]


def test_a_killed_run_ends_with_the_weights_it_would_have_had(tmp_path: Path):
    # The last one cannot start anew.
    whole, killed, resumed = Line(), Line(killed_at=4), Line(killed_at=0)
    train_resumably(whole, None, save_every_s=0)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_resumably(killed, checkpoint, save_every_s=0)
    assert load_checkpoint(checkpoint)[1] == {"done": 4}
    train_resumably(resumed, checkpoint, save_every_s=0)
    torch.testing.assert_close(resumed.weight, whole.weight)
    again = Line(killed_at=0)
    train_resumably(again, checkpoint, save_every_s=0)
    assert again.done == 6


def test_a_finished_run_is_written_however_long_the_interval(tmp_path: Path):
    train_resumably(Line(), tmp_path / "c.safetensors", save_every_s=1e9)
    assert load_checkpoint(tmp_path / "c.safetensors")[1] == {"done": 6}


def test_tensors_that_share_memory_are_kept(tmp_path: Path):
    tied = torch.arange(6.0).view(2, 3)
    save_checkpoint(tmp_path / "c", {"a": tied, "b": tied, "c": tied.T}, {})
    tensors, _ = load_checkpoint(tmp_path / "c")
    for name, expected in {"a": tied, "b": tied, "c": tied.T}.items():
        assert torch.equal(tensors[name], expected)
