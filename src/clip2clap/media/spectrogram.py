"""A mel spectrogram as a picture, with its axes in seconds and Hz."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from transformers.audio_utils import hertz_to_mel, mel_filter_bank

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing

DYNAMIC_RANGE_DB = 80.0
"""How far below the loudest point the picture still tells quiet from silent."""

_MEL_BINS = 128
# What 16 bits cannot hold: below half a step, all is rounding.
_SILENCE = 2.0**-16
_MOST_COLUMNS = 1200
_FREQUENCY_TICKS_HZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16_000)


def log_mel_spectrogram(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Measure how loud each pitch is over time.

    A Hann window of 64 ms, and 128 triangular bands evenly spaced on the mel scale
    (`2595 log10(1 + f / 700)`) from 0 Hz to half the sampling rate.

    Args:
        waveform: Samples, shape (samples,), full scale at -1 and 1.
        sampling_rate: Samples a second, in Hz.

    Returns:
        Power in dB relative to the loudest point, shape (bands, frames), from `-DYNAMIC_RANGE_DB`
        to 0; all `-DYNAMIC_RANGE_DB` for silence.
    """
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(f"Expected a waveform of shape (samples,), got {samples.shape}.")
    # A constant offset cannot be heard, yet would pass for the loudest point.
    samples = samples - samples.mean()
    window = 2 ** round(np.log2(0.064 * sampling_rate))
    hop = max(window // 8, len(samples) // _MOST_COLUMNS)
    padded = np.pad(samples, (window // 2, window // 2))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(window).astype(np.float32))) ** 2
    bands = mel_filter_bank(
        num_frequency_bins=window // 2 + 1,
        num_mel_filters=_MEL_BINS,
        min_frequency=0.0,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="htk",
    )
    mel = (power @ bands).T
    loudest = mel.max()
    if np.abs(samples).max() < _SILENCE:
        return np.full(mel.shape, -DYNAMIC_RANGE_DB)
    floor = loudest * 10 ** (-DYNAMIC_RANGE_DB / 10)
    return 10 * np.log10(np.maximum(mel, floor) / loudest)


def draw_spectrogram(
    waveform: np.ndarray, sampling_rate: int, *, width: int, height: int
) -> Image.Image:
    """Draw a sound's mel spectrogram without axes, low pitches at the bottom.

    Args:
        waveform: Samples, shape (samples,), full scale at -1 and 1.
        sampling_rate: Samples a second, in Hz.
        width: Of the picture, in pixels.
        height: Likewise.

    Raises:
        UserError: If the waveform is not of shape (samples,) or has no samples.
    """
    loudness = 1 + log_mel_spectrogram(waveform, sampling_rate)[::-1] / DYNAMIC_RANGE_DB
    picture = Image.fromarray(colormaps["magma"](loudness, bytes=True)[..., :3])
    return picture.resize((width, height), Image.Resampling.BOX)


def write_spectrogram(
    path: str | Path, waveform: np.ndarray, sampling_rate: int, *, title: str | None = None
) -> None:
    """Draw a sound's mel spectrogram as a PNG, 1800 x 800 pixels, readable at half that size.

    Args:
        path: The PNG to write; its folder must exist. A file of that name is replaced.
        waveform: Samples, shape (samples,), full scale at -1 and 1.
        sampling_rate: Samples a second, in Hz.
        title: A line above the picture.

    Raises:
        UserError: If the waveform is not of shape (samples,) or has no samples.
    """
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
        extent=(0, len(waveform) / sampling_rate, 0, _mel(sampling_rate / 2)),
    )
    ticks = [hertz for hertz in _FREQUENCY_TICKS_HZ if hertz <= sampling_rate / 2]
    axes.set_yticks([_mel(hertz) for hertz in ticks], [str(hertz) for hertz in ticks])
    axes.set_xlabel("Time (s)")
    axes.set_ylabel("Frequency (Hz, mel scale)")
    if title:
        axes.set_title(title)
    figure.colorbar(image, ax=axes, pad=0.01, label="dB (loudest point = 0)")
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


def _mel(hertz: float) -> float:
    return float(hertz_to_mel(float(hertz), mel_scale="htk"))
