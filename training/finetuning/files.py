"""Files with labels, their split, and augmentation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, visible_files
from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES

Modality = Literal["image", "audio"]

_SUFFIXES: dict[Modality, frozenset[str]] = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES}
_MASKS, _WIDEST_MASK = 2, 8


@dataclass(frozen=True)
class LabeledFiles:
    """Images or audio files with their labels."""

    modality: Modality
    labels: tuple[str, ...]
    paths: tuple[Path, ...]
    targets: np.ndarray
    """Index of each file's label."""

    def split(self, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return indices of the training files and of those held out, a share of each label's."""
        rng = np.random.default_rng(seed)
        held_out: list[int] = []
        for label in range(len(self.labels)):
            rows = rng.permutation(np.flatnonzero(self.targets == label))
            held_out += rows[: max(1, round(share * len(rows)))].tolist()
        chosen = np.isin(np.arange(len(self.paths)), held_out)
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def read_labeled_files(folder: str | Path, modality: Modality | None = None) -> LabeledFiles:
    """Read a folder with one subfolder per label.

    Args:
        folder: Folder whose subfolders' names are the labels, with spaces or underscores.
        modality: Files to read; by default audio if there is any, else images.

    Raises:
        UserError: If there are fewer than two labels, or a label has fewer than two files.
    """
    path = as_path(folder)
    if not path.is_dir():
        raise UserError(f"{folder} is not a folder.", param="data")
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    wanted: Sequence[Modality] = ("audio", "image") if modality is None else (modality,)
    for each in wanted:
        found = {p.name: visible_files(p, _SUFFIXES[each]) for p in inside}
        counts = Counter({name: len(files) for name, files in found.items() if files})
        if not counts:
            continue
        few = [name for name, count in counts.items() if count < 2]
        if few or len(counts) < 2:
            problem = f"{few[0]} has one" if few else f"there is one label, {next(iter(counts))}"
            raise UserError(
                f"{folder}: expected two labels or more with two files or more each, to train on "
                f"and to hold out; {problem}.",
                param="data",
            )
        names = sorted(counts)
        targets = [number for number, name in enumerate(names) for _ in found[name]]
        return LabeledFiles(
            each,
            tuple(name.replace("_", " ") for name in names),
            tuple(file for name in names for file in found[name]),
            np.array(targets),
        )
    raise UserError(
        f"{folder} has no subfolders with {' or '.join(wanted)} files. Name one per label.",
        param="data",
    )


def augment_waveform(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Augment a waveform (samples,) as AudioCLIP does; the length stays.

    Inverted in time with a probability of 0.5, scaled in time by 1/1.5 to 1.5 and cropped or
    padded at random, and with noise at 10 to 120 dB with a probability of 0.25.
    """
    length = len(waveform)
    if rng.random() < 0.5:
        waveform = waveform[::-1]
    scaled = max(2, round(length * 1.5 ** rng.uniform(-1, 1)))
    places = np.linspace(0, length - 1, scaled)
    waveform = np.interp(places, np.arange(length), waveform).astype(np.float32)
    if scaled >= length:
        start = rng.integers(scaled - length + 1)
        waveform = waveform[start : start + length]
    else:
        before = rng.integers(length - scaled + 1)
        waveform = np.pad(waveform, (before, length - scaled - before))
    if rng.random() < 0.25:
        power = np.sqrt(np.mean(waveform**2)) * 10 ** (-rng.uniform(10, 120) / 20)
        waveform = waveform + rng.normal(0, power, length).astype(np.float32)
    return np.ascontiguousarray(waveform, np.float32)


def mask_spectrogram(features: Tensor, rng: np.random.Generator) -> Tensor:
    """Replace two spans of frames and two of mel bins, each at most an eighth, by the mean.

    Shape (..., frames, bins), a batch; each item has its own spans.
    """
    masked = features.clone()
    for item in masked:
        mean = item.mean()
        for axis in (-2, -1):
            size = item.shape[axis]
            for _ in range(_MASKS):
                width = int(rng.integers(size // _WIDEST_MASK + 1))
                start = int(rng.integers(size - width + 1))
                item.narrow(axis, start, width).fill_(mean)
    return masked


def mix(
    inputs: dict[str, Tensor], targets: Tensor, strength: float, rng: np.random.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Mix a batch's inputs and targets (n, labels) with those of another order of it."""
    share = float(rng.beta(strength, strength))
    order = torch.from_numpy(rng.permutation(len(targets)))

    def mixed(values: Tensor) -> Tensor:
        return share * values + (1 - share) * values[order]

    floats: dict[str, Any] = {
        name: mixed(values) if values.is_floating_point() else values
        for name, values in inputs.items()
    }
    return floats, mixed(targets)
