"""The demo generator's vocoder: log-mel spectrograms to waveforms.

HiFi-GAN's generator (Kong et al. 2020, https://arxiv.org/abs/2010.05646) in transformers' form,
trained on spectral distances at several resolutions (https://arxiv.org/abs/1910.11480).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from clip2clap.training.demo.data import SAMPLING_RATE
from clip2clap.training.demo.loop import Fit, Schedule, fit
from clip2clap.training.demo.mel import HOP, MEL_BINS, log_mel, mel_filters
from clip2clap.training.demo.sounds import SoundBank

SEGMENT_FRAMES = 48
BATCH = 8
RESOLUTIONS = ((256, 64), (512, 128), (1024, 256), (2048, 512))
SCHEDULE = Schedule(steps=3000, learning_rate=8e-4, betas=(0.8, 0.99), ema_decay=0.998)


def build_vocoder() -> SpeechT5HifiGan:
    """Build a HiFi-GAN for 64 mel bins at 16 kHz, 160 samples a frame."""
    config = SpeechT5HifiGanConfig(
        model_in_dim=MEL_BINS,
        sampling_rate=SAMPLING_RATE,
        upsample_initial_channel=256,
        upsample_rates=[5, 4, 2, 2, 2],
        # An odd kernel for the odd rate: then a frame gives 160 samples and not one more.
        upsample_kernel_sizes=[15, 16, 8, 4, 4],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        normalize_before=True,
    )
    vocoder = SpeechT5HifiGan(config)
    vocoder.mean.fill_(-5.0)
    vocoder.scale.fill_(2.5)
    return vocoder


def spectral_distance(made: Tensor, real: Tensor) -> Tensor:
    """Compare waveforms by their spectra at several resolutions.

    Args:
        made: Waveforms, shape (n, samples).
        real: Waveforms, shape (n, samples).

    Returns:
        Spectral convergence plus the mean distance of log magnitudes, averaged over resolutions.
    """
    total = torch.zeros(())
    for window, hop in RESOLUTIONS:
        both = torch.stft(
            torch.cat([made, real]),
            window,
            hop,
            window=torch.hann_window(window),
            return_complex=True,
        )
        amplitudes = (both.real.square() + both.imag.square() + 1e-9).sqrt()
        a, b = amplitudes.chunk(2)
        convergence = (a - b).norm(dim=(1, 2)) / b.norm(dim=(1, 2)).clamp(min=1e-3)
        logarithms = F.l1_loss(a.clamp(min=1e-4).log(), b.clamp(min=1e-4).log())
        total = total + convergence.clamp(max=10).mean() + logarithms
    return total / len(RESOLUTIONS)


def train_vocoder(bank: SoundBank, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the vocoder on recordings, of known kinds or not.

    Args:
        bank: Training recordings.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        The trained `SpeechT5HifiGan`, with what it took.
    """
    filters = mel_filters()

    def step(vocoder: nn.Module, generator: torch.Generator) -> Tensor:
        rows = bank.draw(BATCH, generator)
        real = bank.batch(rows, SEGMENT_FRAMES * HOP, generator)
        gains = 0.2 + 0.8 * torch.rand(BATCH, 1, generator=generator)
        real = real * gains
        mels = log_mel(real, filters)
        with torch.autocast("cpu", torch.bfloat16):
            made = vocoder(mels)
        made = made.float()
        return spectral_distance(made, real) + F.l1_loss(log_mel(made, filters), mels)

    torch.manual_seed(schedule.seed)
    return fit(build_vocoder(), step, schedule, folder, name="vocoder")
