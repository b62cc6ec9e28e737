"""Mel filter banks."""

from typing import Literal

import numpy as np


def mel_filters(
    window_size: int,
    mel_bins: int,
    sampling_rate: int,
    *,
    scale: Literal["htk", "slaney"] = "htk",
    norm: Literal["slaney"] | None = None,
) -> np.ndarray:
    """Compute triangular mel filters from 0 Hz to half the sampling rate.

    Args:
        window_size: Samples of the Fourier transform's window.
        mel_bins: Number of filters.
        sampling_rate: In Hz.
        scale: Mel scale: `2595 log10(1 + f / 700)` for `"htk"`.
        norm: Scale each filter to unit area on the mel scale, or leave its peak at 1.

    Returns:
        Filters, shape (window_size // 2 + 1, mel_bins), float64.
    """
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(
        num_frequency_bins=window_size // 2 + 1,
        num_mel_filters=mel_bins,
        min_frequency=0.0,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        norm=norm,
        mel_scale=scale,
    )
