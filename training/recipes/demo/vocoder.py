"""The demo generator's vocoder: log-mel spectrograms to waveforms."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.recipes.demo.audio_bank import SoundBank
from clip2clap.training.recipes.demo.data import SAMPLING_RATE
from clip2clap.training.recipes.demo.loop import Fit, Schedule, compute, fit
from clip2clap.training.recipes.demo.mel import HOP, MEL_BINS, WINDOW, log_mel, mel_filters

SEGMENT_FRAMES = 64
BATCH = 32
SCHEDULE = Schedule(steps=2500, learning_rate=1e-3, ema_decay=0.998)


def build_vocoder() -> SpectralVocoder:
    """Build a vocoder for 64 mel bins at 16 kHz, 160 samples a frame."""
    return SpectralVocoder(
        model_in_dim=MEL_BINS,
        sampling_rate=SAMPLING_RATE,
        upsample_rates=(HOP,),
        window_size=WINDOW,
    )


def spectral_distance(made: Tensor, real: Tensor) -> Tensor:
    """Compare magnitudes of short-time Fourier transforms.

    Args:
        made: Magnitudes, shape (n, frames, bins).
        real: Magnitudes, shape (n, frames, bins).

    Returns:
        Spectral convergence plus the mean distance of log magnitudes
        (https://arxiv.org/abs/1910.11480).
    """
    difference = (made - real).norm(dim=(1, 2)) / real.norm(dim=(1, 2)).clamp(min=1e-3)
    logarithms = F.l1_loss(made.clamp(min=1e-4).log(), real.clamp(min=1e-4).log())
    return difference.clamp(max=10).mean() + 0.2 * logarithms


def train_vocoder(bank: SoundBank, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the vocoder's magnitudes on recordings, of known kinds or not.

    Args:
        bank: Training recordings.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        The trained `SpectralVocoder`, with what it took.
    """
    filters = mel_filters()

    def step(vocoder: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(vocoder, SpectralVocoder)
        rows = bank.draw(BATCH, generator)
        real = bank.batch(rows, SEGMENT_FRAMES * HOP, generator)
        real = real * (0.2 + 0.8 * torch.rand(BATCH, 1, generator=generator))
        made = compute(vocoder.magnitudes, log_mel(real, filters))
        return spectral_distance(made, compute(vocoder.stft, real).abs())

    torch.manual_seed(schedule.seed)
    return fit(build_vocoder(), step, schedule, folder, name="vocoder")
