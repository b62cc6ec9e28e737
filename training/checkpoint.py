"""Resumable training: one checkpoint format and one loop for every run of the project.

A run is anything with the methods of `Resumable`. What it trains is its own business.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from clip2clap.core.files import save_tensors
from clip2clap.core.output_folder import writing_to


class Resumable(Protocol):
    """Training run that can be written to a checkpoint and restored from it."""

    @property
    def is_over(self) -> bool:
        """True when nothing is left to train."""
        ...

    def advance(self) -> None:
        """Train until the next moment at which a checkpoint may be written: an epoch or a step."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors by name, and all other values as JSON has them."""
        ...

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load what `state` returned."""


def train_resumably(run: Resumable, checkpoint: Path | None, *, save_every_s: float) -> None:
    """Train a run to its end, from its checkpoint if there is one.

    The checkpoint of the finished run stays: the caller removes it once the result is written, so
    that a kill in between repeats nothing. Without a file none is written.
    """
    if checkpoint is not None and checkpoint.is_file():
        run.restore(*load_checkpoint(checkpoint))
    saved = time.monotonic()
    while not run.is_over:
        run.advance()
        is_due = run.is_over or time.monotonic() - saved >= save_every_s
        if checkpoint is not None and is_due:
            save_checkpoint(checkpoint, *run.state())
            saved = time.monotonic()


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: one safetensors file, with the values in its metadata.

    Raises:
        UserError: If the folder cannot be written to.
    """
    # safetensors refuses tensors that share memory, as tied weights do.
    stored = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    with writing_to(path.parent):
        save_tensors(stored, path, {"state": json.dumps(values)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the values that `save_checkpoint` wrote.

    Raises:
        SafetensorError: If the file is no safetensors file.
    """
    return load_file(path), read_values(path)


def read_values(path: Path) -> dict[str, Any]:
    """Return the values of a checkpoint without its tensors; raises as `load_checkpoint` does."""
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("state", "{}"))


def flatten(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of several parts in one dict, named `part/name`."""
    return {f"{part}/{name}": t for part, own in parts.items() for name, t in own.items()}


def part_of(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of one part by their own names; the inverse of `flatten`."""
    own = (name for name in tensors if name.startswith(f"{part}/"))
    return {name.removeprefix(f"{part}/"): tensors[name] for name in own}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state by parameter, named `index/key`, such as `0/exp_avg`."""
    states = optimizer.state_dict()["state"]
    return {
        f"{index}/{key}": torch.as_tensor(value)
        for index, state in states.items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned, onto the devices of the parameters."""
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
