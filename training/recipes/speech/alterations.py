"""Alterations of synthesized speech: speakers' sizes, rooms, telephones, noise and silence."""

from collections.abc import Sequence

import numpy as np
import soxr
from scipy.signal import butter, sosfilt

from clip2clap.training.recipes.speech.voices import RATE
from clip2clap.training.speech.alterations import add_noise, reverberate

SIZES = (0.82, 1.22)
"""Least and greatest factor of pitch, formants and speed together, as of a larger or smaller
speaker."""


def altered(
    waveform: np.ndarray, noises: Sequence[np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """Return speech of another size, in a room, over a telephone, with noise, each sometimes.

    Args:
        waveform: Speech at 16 kHz.
        noises: Recordings at 16 kHz that half of the noise is taken from, if there are any.
        rng: Source of all that is random.
    """
    if rng.random() < 0.7:
        factor = np.exp(rng.uniform(*np.log(SIZES)))
        waveform = soxr.resample(waveform, RATE * factor, RATE)
    if rng.random() < 0.3:
        waveform = reverberate(waveform, RATE, rng.uniform(0.1, 0.6), rng)
    if rng.random() < 0.2:
        low, high = rng.uniform(50, 300), rng.uniform(2_500, 6_000)
        filters = butter(2, [low, high], "bandpass", fs=RATE, output="sos")
        waveform = np.asarray(sosfilt(filters, waveform))
    silence = np.zeros(int(rng.uniform(0, 0.4) * RATE), dtype=np.float32)
    waveform = np.concatenate([silence, waveform, silence[: silence.size // 2]])
    if rng.random() < 0.75:
        recording = noises[int(rng.integers(len(noises)))] if noises else None
        recording = recording if rng.random() < 0.5 else None
        waveform = add_noise(waveform, rng.uniform(4, 22), rng, recording=recording)
    return (waveform * 10 ** rng.uniform(-1.2, 0.2)).clip(-1, 1).astype(np.float32)
