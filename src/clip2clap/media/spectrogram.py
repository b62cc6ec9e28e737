"""Mel filter banks, and mel spectrograms as images with axes in seconds and Hz."""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from clip2clap.core.errors import UserError, printable
from clip2clap.core.files import replacing

DYNAMIC_RANGE_DB = 80.0
"""Range of a spectrogram below its loudest point, in dB."""

_MEL_BINS = 128
# Below half a step of 16 bits all is rounding.
_SILENCE = 2.0**-16
_MOST_COLUMNS = 1200
_FREQUENCY_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16_000)


def mel_filters(
    window_size: int,
    mel_bins: int,
    sampling_rate: int,
    *,
    scale: Literal["htk", "slaney"] = "htk",
    norm: Literal["slaney"] | None = None,
) -> np.ndarray:
    """Compute triangular mel filters from 0 Hz to half the sampling rate.

    Each is scaled to unit area on the mel scale, or with `norm=None` has a peak of 1. The shape is
    (window_size // 2 + 1, mel_bins), float64.
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


def log_mel_spectrogram(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Compute a log-mel power spectrogram of a waveform, shape (samples,).

    A Hann window of 64 ms, and 128 triangular filters evenly spaced on the HTK mel scale from 0 Hz
    to half the sampling rate.

    Returns:
        Power in dB relative to the loudest point, shape (mel bins, frames), from
        `-DYNAMIC_RANGE_DB` to 0; all `-DYNAMIC_RANGE_DB` for silence.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(f"Expected a waveform of shape (samples,), got {samples.shape}.")
    # A constant offset is inaudible, but would be the loudest point.
    samples = samples - samples.mean()
    window = 2 ** round(np.log2(0.064 * sampling_rate))
    hop = max(window // 8, len(samples) // _MOST_COLUMNS)
    padded = np.pad(samples, (window // 2, window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]  # (frames, window)
    power = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32))) ** 2
    mel = (power @ mel_filters(window, _MEL_BINS, sampling_rate)).T  # (mel bins, frames)
    loudest = mel.max()
    if np.abs(samples).max() < _SILENCE:
        return np.full(mel.shape, -DYNAMIC_RANGE_DB)
    floor = loudest * 10 ** (-DYNAMIC_RANGE_DB / 10)
    return 10 * np.log10(np.maximum(mel, floor) / loudest)


def draw_spectrogram(
    waveform: np.ndarray, sampling_rate: int, *, width: int, height: int
) -> Image.Image:
    """Draw a log-mel spectrogram without axes, low frequencies at the bottom; size in pixels."""
    from matplotlib import colormaps

    loudness = 1 + log_mel_spectrogram(waveform, sampling_rate)[::-1] / DYNAMIC_RANGE_DB
    image = Image.fromarray(colormaps["magma"](loudness, bytes=True)[..., :3])
    return image.resize((width, height), Image.Resampling.BOX)


def write_spectrogram(
    path: str | Path, waveform: np.ndarray, sampling_rate: int, *, title: str | None = None
) -> None:
    """Write a log-mel spectrogram with axes and a title as a PNG of 1800 x 800 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from transformers.audio_utils import hertz_to_mel

    path = Path(path)
    decibels = log_mel_spectrogram(waveform, sampling_rate)
    figure = Figure(figsize=(9, 4), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        cmap="magma",
        vmin=-DYNAMIC_RANGE_DB,
        vmax=0,
        extent=(0, len(waveform) / sampling_rate, 0, float(hertz_to_mel(sampling_rate / 2, "htk"))),
    )
    ticks = [hertz for hertz in _FREQUENCY_TICKS_HZ if hertz <= sampling_rate / 2]
    axes.set_yticks(hertz_to_mel(np.array(ticks, float), "htk"), [str(hertz) for hertz in ticks])
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (Hz, mel scale)")
    if title:
        axes.set_title(printable(title), parse_math=False)
    figure.colorbar(image, ax=axes, pad=0.01, label="dB (loudest point = 0)")
    with replacing(path) as partial:
        figure.savefig(partial, format="png")
