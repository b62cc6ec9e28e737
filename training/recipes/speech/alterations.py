"""Alterations of synthesized speech: rooms, telephones, noise and silence."""

from collections.abc import Sequence

import numpy as np

from clip2clap.training.recipes.speech.voices import RATE


def altered(
    waveform: np.ndarray, noises: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Return speech in a room, over a telephone, with noise or after silence, each sometimes.

    Args:
        waveform: Speech at 16 kHz.
        noises: Recordings at 16 kHz that noise is drawn from, besides white and pink noise.
        rng: What is drawn.
    """
    if rng.random() < 0.3:
        waveform = _in_room(waveform, rng)
    if rng.random() < 0.2:
        waveform = _band_limited(waveform, rng)
    silence = np.zeros(int(rng.uniform(0, 0.4) * RATE), dtype=np.float32)
    waveform = np.concatenate([silence, waveform, silence[: silence.size // 2]])
    if rng.random() < 0.5:
        waveform = add_noise(waveform, _noise(waveform.size, noises, rng), rng.uniform(5, 30))
    return (waveform * 10 ** rng.uniform(-1.2, 0.2)).clip(-1, 1).astype(np.float32)


def add_noise(waveform: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Return speech plus noise at a signal-to-noise ratio in dB, by the mean power of both."""
    power, noise_power = np.mean(waveform**2), np.mean(noise**2) + 1e-12
    return waveform + noise * np.sqrt(power / noise_power / 10 ** (snr / 10))


def _noise(size: int, noises: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    kind = rng.random()
    if kind < 0.5 and noises:
        recording = noises[int(rng.integers(len(noises)))]
        start = rng.integers(recording.size)
        return np.take(recording, np.arange(start, start + size), mode="wrap")
    return colored_noise(size, rng.uniform(0, 1), rng)


def colored_noise(size: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise whose amplitude falls as the frequency to a power: 0 for white, 0.5 for pink."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    return np.fft.irfft(spectrum / np.arange(1, spectrum.size + 1) ** slope, size)


def _in_room(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convolve with decaying noise, a synthetic room response of 0.1 to 0.6 s to -60 dB."""
    from scipy.signal import fftconvolve

    seconds = rng.uniform(0.1, 0.6)
    times = np.arange(int(seconds * RATE)) / RATE
    response = rng.standard_normal(times.size) * 10 ** (-3 * times / seconds)
    response *= rng.uniform(0.1, 0.6) / np.sqrt(np.sum(response**2))
    response[0] = 1
    return fftconvolve(waveform, response)[: waveform.size + RATE // 5].astype(np.float32)


def _band_limited(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    from scipy.signal import butter, sosfilt

    low, high = rng.uniform(50, 300), rng.uniform(2_500, 6_000)
    return np.asarray(sosfilt(butter(2, [low, high], "bandpass", fs=RATE, output="sos"), waveform))
