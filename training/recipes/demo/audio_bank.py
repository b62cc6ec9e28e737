"""Audio of one split in memory, as peak-normalized waveforms to draw batches from."""

import numpy as np
import torch
from torch import Tensor

from clip2clap.training.recipes.demo.data import DemoData, Split, fit_length, read_audio
from clip2clap.training.recipes.demo.mel import FRAMES, HOP

# Every waveform is scaled to this peak: levels differ by source, not by class.
PEAK = 0.9
CLIP_SAMPLES = FRAMES * HOP


class AudioBank:
    """Waveforms of one split, with their class numbers (`labels`) and sampling `weights`.

    Args:
        data: The data folder.
        split: Split to read.
        labeled_only: Leave out audio of no demo class.
    """

    def __init__(self, data: DemoData, split: Split, *, labeled_only: bool):
        self.indices = [
            index
            for index, audio in enumerate(data.audio)
            if audio.split == split and (audio.label or not labeled_only)
        ]
        chosen = [data.audio[index] for index in self.indices]
        self.waveforms = [_normalize_peak(read_audio(audio)) for audio in chosen]
        numbers = {name: number for number, name in enumerate(data.class_names)}
        self.labels = torch.tensor([numbers.get(audio.label, -1) for audio in chosen])
        groups = torch.unique(self.labels, return_inverse=True)[1]
        # A row's weight is 1/sqrt(class size): a class of 150 is drawn sqrt(3) times as often as
        # one of 50, where equal weights would draw it three times as often.
        counts = torch.bincount(groups).float()
        self.weights = counts[groups].rsqrt() if labeled_only else torch.ones(len(chosen))

    def __len__(self) -> int:
        return len(self.waveforms)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw row numbers by `weights`, with replacement, shape (count,)."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)

    def crop(self, row: int, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return one waveform cropped or repeated to a length, at a random offset or the start."""
        waveform = self.waveforms[row]
        offset = 0
        if generator is not None:
            spare = max(len(waveform) - samples, 0)
            offset = int(torch.randint(spare + 1, (), generator=generator))
            if not spare:
                shift = int(torch.randint(len(waveform), (), generator=generator))
                waveform = np.roll(fit_length(waveform, samples), shift % samples)
        return torch.from_numpy(fit_length(waveform, samples, offset=offset))

    def batch(self, rows: Tensor, samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return waveforms of several rows, shape (n, samples)."""
        return torch.stack([self.crop(row, samples, generator) for row in rows.tolist()])


def _normalize_peak(waveform: np.ndarray) -> np.ndarray:
    return waveform * (PEAK / max(float(np.abs(waveform).max()), 1e-4))
