"""Features of aiSFX, the network of the audio classifier that evaluates the demo models.

Ma and Lerch, "Representation Learning for the Automatic Indexing of Sound Effects Libraries", ISMIR
2022 (https://arxiv.org/abs/2208.09096).
"""

from functools import cache

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.media.spectrogram import mel_filters
from clip2clap.training.recipes.demo.data import SAMPLING_RATE
from clip2clap.training.recipes.demo.loop import compute, training_device

NETWORK_RATE, WINDOW, HOP, MEL_BINS = 44_100, 2048, 1024, 96
# The largest log-mel value of aiSFX's training data.
LOG_MEL_RANGE = 9.457798957824707
CHANNELS = (64, 128, 256, 512)
# Frames of the 2.3 s that the network was trained on.
BLOCK_FRAMES = 100
BATCH = 8


class SfxBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization, then max pooling."""

    def __init__(self, in_channels: int, out_channels: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (n, in_channels, t, f) to (n, out_channels, t / pool, f / pool)."""
        hidden = F.relu(self.bn1(self.conv1(hidden)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.max_pool2d(hidden, self.pool)


class SfxNetwork(nn.Module):
    """Convolution blocks of aiSFX, each pooled over time and frequency."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS):
        super().__init__()
        widths = [1, *channels]
        # All but the last block halve the resolution.
        self.pools = [2] * (len(channels) - 1) + [1]
        self.blocks = nn.ModuleList(map(SfxBlock, widths, channels, self.pools))

    def forward(self, log_mels: Tensor) -> Tensor:
        """Map log-mels (n, frames, bins) to roots of features (n, d) of the last two blocks.

        Of each block: the mean over time, the maximum, and the mean over windows of 2.3 s of the
        maximum in each, which is aiSFX's own pooling.
        """
        hidden, frames, features = log_mels.unsqueeze(1), BLOCK_FRAMES, []
        for block, pool in zip(self.blocks, self.pools, strict=True):
            hidden = block(hidden)
            frames //= pool
            maps = hidden.mean(dim=3)  # (n, channels, t)
            windows = maps.unfold(2, frames, frames // 2).amax(dim=3)
            features.append([maps.mean(dim=2), windows.mean(dim=2), maps.amax(dim=2)])
        return torch.cat([x for part in features[-2:] for x in part], dim=1).sqrt()


def sfx_features(network: nn.Module, waveforms: Tensor) -> Tensor:
    """Compute features (n, d) of waveforms (n, samples) at 16 kHz, independent of their level."""
    network.to(training_device())
    with torch.inference_mode():
        return torch.cat([compute(network, sfx_log_mels(part)) for part in waveforms.split(BATCH)])


def sfx_log_mels(waveforms: Tensor) -> Tensor:
    """Compute aiSFX's input (n, frames, 96) of waveforms (n, samples) at 16 kHz."""
    resampled = soxr.resample(waveforms.numpy().T, SAMPLING_RATE, NETWORK_RATE).T
    samples = torch.from_numpy(np.ascontiguousarray(resampled, np.float32))
    samples = samples / samples.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    window = torch.hann_window(WINDOW)
    spectra = torch.stft(samples, WINDOW, HOP, window=window, return_complex=True)
    power = spectra.abs().square().transpose(1, 2) @ _filters()
    return torch.log10(10_000 * power + 1) / LOG_MEL_RANGE


@cache
def _filters() -> Tensor:
    filters = mel_filters(WINDOW, MEL_BINS, NETWORK_RATE)
    return torch.from_numpy(filters / filters.sum(axis=0).clip(min=1e-10)).float()
