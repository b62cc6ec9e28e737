"""Demo generator's vocoder: log-mel spectrograms to waveforms."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.recipes.demo.audio_bank import (
    HOP,
    MEL_BINS,
    WINDOW,
    AudioBank,
    log_mel,
)
from clip2clap.training.recipes.demo.data import SAMPLING_RATE
from clip2clap.training.recipes.demo.loop import Stage, compute

SEGMENT_FRAMES = 64
BATCH = 32


def build_vocoder() -> SpectralVocoder:
    """Build a vocoder for 64 mel bins at 16 kHz and a hop of 160 samples."""
    return SpectralVocoder(
        model_in_dim=MEL_BINS,
        sampling_rate=SAMPLING_RATE,
        upsample_rates=(HOP,),
        window_size=WINDOW,
    )


def spectral_distance(predicted: Tensor, real: Tensor) -> Tensor:
    """Compute spectral convergence plus the L1 distance of log magnitudes (n, frames, bins).

    Yamamoto et al. 2019, https://arxiv.org/abs/1910.11480.
    """
    difference = (predicted - real).norm(dim=(1, 2)) / real.norm(dim=(1, 2)).clamp(min=1e-3)
    logarithms = F.l1_loss(predicted.clamp(min=1e-4).log(), real.clamp(min=1e-4).log())
    return difference.clamp(max=10).mean() + 0.2 * logarithms


def train_vocoder(bank: AudioBank, stage: Stage) -> SpectralVocoder:
    """Train the magnitudes of a `SpectralVocoder` on training audio, of demo classes or not."""

    def batch_loss(vocoder: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(vocoder, SpectralVocoder)
        rows = bank.draw(BATCH, generator)
        real = bank.batch(rows, SEGMENT_FRAMES * HOP, generator)
        real = real * (0.2 + 0.8 * torch.rand(BATCH, 1, generator=generator))
        predicted = compute(vocoder.magnitudes, log_mel(real))
        return spectral_distance(predicted, compute(vocoder.stft, real).abs())

    return stage.train(build_vocoder, batch_loss)
