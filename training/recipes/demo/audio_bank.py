"""Recordings in memory, as waveforms of one level, to draw batches from."""

import numpy as np
import torch
from torch import Tensor

from clip2clap.training.recipes.demo.data import DemoData, Split, fill, read_recording
from clip2clap.training.recipes.demo.mel import FRAMES, HOP

# Every recording is scaled to this peak: the sources' levels tell nothing of the thing.
PEAK = 0.9
CLIP_SAMPLES = FRAMES * HOP


class SoundBank:
    """The recordings of one split.

    Args:
        data: The data folder.
        split: Which recordings.
        kinds_only: Leave out recordings of no kind.
    """

    def __init__(self, data: DemoData, split: Split, *, kinds_only: bool):
        self.numbers = [
            number
            for number, recording in enumerate(data.recordings)
            if recording.split == split and (recording.kind or not kinds_only)
        ]
        recordings = [data.recordings[number] for number in self.numbers]
        self.waveforms = [_level(read_recording(recording)) for recording in recordings]
        names = {name: number for number, name in enumerate(data.kind_names)}
        self.kinds = torch.tensor([names.get(recording.kind, -1) for recording in recordings])
        groups = torch.unique(self.kinds, return_inverse=True)[1]
        # A kind with 150 recordings is drawn only as often as one with 50: 22 still have a voice.
        counts = torch.bincount(groups).float()
        self.weights = counts[groups].rsqrt() if kinds_only else torch.ones(len(recordings))

    def __len__(self) -> int:
        return len(self.waveforms)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw row numbers, rarer kinds more often than their share, shape (count,)."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)

    def crop(self, row: int, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return one recording cut or repeated to a length, from a random place or the start."""
        waveform = self.waveforms[row]
        offset = 0
        if generator is not None:
            spare = max(len(waveform) - samples, 0)
            offset = int(torch.randint(spare + 1, (), generator=generator))
            if not spare:
                turn = int(torch.randint(len(waveform), (), generator=generator))
                waveform = np.roll(fill(waveform, samples), turn % samples)
        return torch.from_numpy(fill(waveform, samples, offset=offset))

    def batch(self, rows: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return several recordings, shape (n, samples)."""
        return torch.stack([self.crop(row, samples, generator) for row in rows.tolist()])


def _level(waveform: np.ndarray) -> np.ndarray:
    return waveform * (PEAK / max(float(np.abs(waveform).max()), 1e-4))
