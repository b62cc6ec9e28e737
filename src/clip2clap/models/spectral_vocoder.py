"""Small vocoder: a network predicts magnitudes from mel spectrograms, Griffin-Lim the phases."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.media.spectrogram import mel_filters

# Mel filters overlap: correcting one magnitude changes its neighbors'.
_BALANCING_STEPS = 3


class SpectralVocoder(ModelMixin, ConfigMixin):
    """Vocoder of log-mel spectrograms, called as transformers' `SpeechT5HifiGan`.

    A few ConvNeXt blocks over time (as in Vocos, Siuzdak 2023, https://arxiv.org/abs/2306.00814)
    predict the magnitudes of a short-time Fourier transform from the mel amplitudes. Phases come
    from fast Griffin-Lim iterations (Perraudin et al. 2013,
    https://doi.org/10.1109/WASPAA.2013.6701851) that also pull the magnitudes to the given mel
    amplitudes, which plain Griffin-Lim drifts away from.

    Args:
        model_in_dim: Mel bins.
        sampling_rate: In Hz.
        upsample_rates: Samples per frame, as one factor.
        window_size: Samples of the Hann window and of its Fourier transform.
        hidden_dim: Channels of the network.
        num_blocks: ConvNeXt blocks.
        iterations: Griffin-Lim iterations.
        momentum: Overshoot of each iteration, from 0 (plain Griffin-Lim) to below 1.
    """

    draft_iterations = 2
    """Griffin-Lim iterations of drafts, which candidates are ranked by."""

    @register_to_config
    def __init__(
        self,
        model_in_dim: int = 64,
        sampling_rate: int = 16_000,
        upsample_rates: tuple[int, ...] = (160,),
        window_size: int = 1024,
        hidden_dim: int = 256,
        num_blocks: int = 4,
        iterations: int = 16,
        momentum: float = 0.99,
    ) -> None:
        super().__init__()
        if len(upsample_rates) != 1 or not 0 < upsample_rates[0] <= window_size // 2:
            raise UserError(
                "Expected upsample_rates to hold one hop of at most half the window, "
                f"{window_size // 2} samples, got {tuple(upsample_rates)}."
            )
        self.hop_length = upsample_rates[0]
        bins = window_size // 2 + 1
        self.conv_in = nn.Conv1d(model_in_dim, hidden_dim, 7, padding=3)
        self.blocks = nn.ModuleList(_ConvNextBlock(hidden_dim) for _ in range(num_blocks))
        self.conv_out = nn.Conv1d(hidden_dim, bins, 1)
        nn.init.zeros_(self.conv_out.weight)
        filters = slaney_filters(window_size, model_in_dim, sampling_rate)
        self.register_buffer("filters", filters, persistent=False)
        shares = filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-8)
        self.register_buffer("shares", shares, persistent=False)
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)

    @property
    def config(self) -> Any:
        """The config, with attribute access as in transformers."""
        return super().config

    def magnitudes(self, spectrogram: Tensor) -> Tensor:
        """Predict magnitudes, shape (n, frames, window_size // 2 + 1), of a Fourier transform.

        They are the mel amplitudes of the log-mel spectrograms, shape (n, frames, mel bins), as a
        smooth envelope, times the network's output.
        """
        hidden = self.conv_in((spectrogram.transpose(1, 2) + 5) / 2.5)
        for block in self.blocks:
            hidden = block(hidden)
        detail = self.conv_out(hidden).transpose(1, 2)
        envelope = (spectrogram.exp() / self.filters.sum(dim=0)) @ self.shares.T
        return envelope * detail.exp()

    def forward(self, spectrogram: Tensor, *, iterations: int | None = None) -> Tensor:
        """Generate waveforms, shape (n, frames * hop), or (frames * hop,) for one.

        Deterministic: the phases start from a fixed seed. The spectrogram is natural logarithms of
        mel amplitudes, shape (n, frames, mel bins), or (frames, mel bins) for one. By default there
        are as many Griffin-Lim iterations as in the config.
        """
        if spectrogram.ndim not in (2, 3) or spectrogram.shape[-1] != self.config.model_in_dim:
            raise UserError(
                f"Expected log-mel spectrograms of shape (n, frames, {self.config['model_in_dim']})"
                f", got {tuple(spectrogram.shape)}."
            )
        batch = spectrogram if spectrogram.ndim == 3 else spectrogram.unsqueeze(0)
        targets = batch.float().exp()
        predicted = self.magnitudes(batch).float()
        for _ in range(_BALANCING_STEPS):
            predicted = predicted * self._gains(targets, predicted)
        seed = torch.Generator().manual_seed(0)
        turns = torch.rand(predicted.shape[1:], generator=seed, dtype=torch.float32).to(
            predicted.device
        )
        phases = torch.polar(torch.ones_like(turns), 2 * torch.pi * turns)
        momentum = self.config.momentum
        weight = momentum / (1 + momentum)
        overlaps = self._overlaps(predicted.shape[1])
        spectra = predicted * phases
        before = torch.zeros_like(spectra)
        for _ in range(self.config.iterations if iterations is None else iterations):
            rebuilt = self.stft(self.istft(spectra, overlaps))
            ahead = torch.sub(rebuilt, before, alpha=weight)
            before = rebuilt
            own = ahead.abs().clamp(min=1e-9)
            # The geometric mean of the magnitudes that the phases allow, and of the predicted.
            spectra = ahead * _root(self._gains(targets, own) * predicted / own)
        waveforms = self.istft(spectra, overlaps)
        return waveforms if spectrogram.ndim == 3 else waveforms[0]

    def _gains(self, targets: Tensor, magnitudes: Tensor) -> Tensor:
        """Compute factors that bring magnitudes (n, frames, bins) closer to mel amplitudes."""
        ratios = (targets / (magnitudes @ self.filters.float()).clamp(min=1e-7)).clamp(1e-3, 1e3)
        return (ratios.log() @ self.shares.float().T).exp()

    def stft(self, waveforms: Tensor) -> Tensor:
        """Compute complex spectra (n, frames, bins) of waveforms (n, frames * hop)."""
        return framed_spectra(waveforms, self.window.float(), self.hop_length)

    def istft(self, spectra: Tensor, overlaps: Tensor | None = None) -> Tensor:
        """Compute waveforms (n, frames * hop) of complex spectra (n, frames, bins).

        Overlaps are the sum of the squared windows, shape (1, samples), where it is at hand.
        """
        # `torch.istft` requires centered frames, and one frame more.
        size, hop, frames = len(self.window), self.hop_length, spectra.shape[1]
        if overlaps is None:
            overlaps = self._overlaps(frames)
        added = _overlap_add(torch.fft.irfft(spectra, n=size) * self.window.float(), hop)
        start = (size - hop) // 2
        inside = slice(start, start + frames * hop)
        return added[:, inside] / overlaps[:, inside].clamp(min=1e-3)

    def _overlaps(self, frames: int) -> Tensor:
        squares = self.window.float().square().expand(1, frames, -1)
        return _overlap_add(squares, self.hop_length)


def slaney_filters(window_size: int, mel_bins: int, sampling_rate: int) -> Tensor:
    """Return AudioLDM's mel filter bank, shape (window_size // 2 + 1, mel_bins)."""
    filters = mel_filters(window_size, mel_bins, sampling_rate, scale="slaney", norm="slaney")
    return torch.from_numpy(filters).float()


def framed_spectra(waveforms: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Compute complex spectra (n, frames, bins) of waveforms (n, frames * hop_length).

    Frames are centered on the middles of their hops, as in HiFi-GAN.
    """
    padding = (len(window) - hop_length) // 2
    padded = F.pad(waveforms.unsqueeze(1), (padding, padding), mode="reflect").squeeze(1)
    spectra = torch.stft(
        padded, len(window), hop_length, window=window, center=False, return_complex=True
    )
    return spectra.transpose(1, 2)


def _root(values: Tensor) -> Tensor:
    """Compute square roots, whose gradient is 0 at 0, where it is infinite."""
    if not values.requires_grad:
        return values.sqrt()
    above = values > 0
    return torch.where(above, values, 1).sqrt() * above


def _overlap_add(pieces: Tensor, hop: int) -> Tensor:
    """Add frames (n, frames, size), each a hop after the one before, to (n, samples)."""
    count, frames, size = pieces.shape
    parts = -(-size // hop)
    added = pieces.new_zeros(count, frames + parts - 1, hop)
    for part in range(parts):
        rows = pieces[..., part * hop : (part + 1) * hop]
        added[:, part : part + frames, : rows.shape[-1]] += rows
    return added.flatten(1)


class _ConvNextBlock(nn.Module):
    """ConvNeXt block over time (Liu et al. 2022, https://arxiv.org/abs/2201.03545)."""

    def __init__(self, dim: int):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 3 * dim)
        self.narrow = nn.Linear(3 * dim, dim)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (n, dim, frames) to the same shape."""
        added = self.norm(self.depthwise(hidden_states).transpose(1, 2))
        return hidden_states + self.narrow(F.gelu(self.widen(added))).transpose(1, 2)
