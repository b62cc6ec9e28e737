"""Audio of one split in memory, and log-mel spectrograms as AudioLDM's vocoder reads them."""

import functools

import numpy as np
import torch
from torch import Tensor

from clip2clap.models.spectral_vocoder import framed_spectra, slaney_filters
from clip2clap.training.recipes.demo.data import (
    SAMPLING_RATE,
    DemoData,
    Split,
    fit_length,
    read_audio,
)

HOP, WINDOW, MEL_BINS = 160, 1024, 64
# The clip's length: 512 frames, 5.12 s.
FRAMES = 512
# Amplitudes below this are silence; its logarithm is the smallest value of a spectrogram.
FLOOR = 1e-5

# Every waveform is scaled to this peak: levels differ by source, not by class.
PEAK = 0.9
CLIP_SAMPLES = FRAMES * HOP


class AudioBank:
    """Peak-normalized waveforms of a split, their class numbers (`labels`) and draw `weights`.

    Args:
        data: The data folder.
        split: Split to read.
        labeled_only: Leave out audio of no class.
    """

    def __init__(self, data: DemoData, split: Split, *, labeled_only: bool):
        self.indices = [
            index
            for index, audio in enumerate(data.audio)
            if audio.split == split and (audio.label or not labeled_only)
        ]
        chosen = [data.audio[index] for index in self.indices]
        self.waveforms = [_normalize_peak(read_audio(audio)) for audio in chosen]
        numbers = {name: number for number, name in enumerate(data.audio_class_names)}
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


@torch.no_grad()
def log_mel(waveforms: Tensor) -> Tensor:
    """Compute log-mel spectrograms in 64 Slaney bins up to 8 kHz.

    Args:
        waveforms: Shape (n, samples), `samples` a multiple of `HOP`, at 16 kHz.

    Returns:
        Natural logarithms of mel amplitudes, shape (n, samples / HOP, 64).
    """
    spectra = framed_spectra(waveforms, torch.hann_window(WINDOW), HOP)
    # The UNet, vocoder and classifiers were trained with this epsilon.
    amplitudes = (spectra.abs().square() + 1e-9).sqrt()
    return (amplitudes @ _filters()).clamp(min=FLOOR).log()


@functools.cache
@torch.inference_mode(False)  # Training cannot use a tensor that inference mode made first.
def _filters() -> Tensor:
    return slaney_filters(WINDOW, MEL_BINS, SAMPLING_RATE)


def _normalize_peak(waveform: np.ndarray) -> np.ndarray:
    return waveform * (PEAK / max(float(np.abs(waveform).max()), 1e-4))
