"""Alterations of speech for training: speed, reverberation, noise, and masks."""

import numpy as np
import soxr
import torch
from scipy.signal import fftconvolve
from torch import Tensor

from clip2clap.training.finetuning.files import mask_spectrogram
from clip2clap.training.speech.config import SpeechTrainingConfig

_QUIETEST_NOISE_DB = 35.0
# Shortest reverberation time: that of a furnished small room.
_SHORTEST_REVERB_S = 0.1
# A tenth of a room's energy or more arrives directly.
_DIRECT = (0.1, 0.9)
_MASKS, _WIDEST_MASK = 2, 8


def alter_speech(
    waveform: np.ndarray, sampling_rate: int, config: SpeechTrainingConfig, rng: np.random.Generator
) -> np.ndarray:
    """Alter a waveform (samples,) at random: speed, then a room's response, then noise.

    The length changes with the speed.
    """
    if config.speed and rng.random() < config.augment:
        factor = 1 + rng.uniform(-config.speed, config.speed)
        waveform = soxr.resample(waveform, sampling_rate * factor, sampling_rate)
    if config.reverb_s and rng.random() < config.augment:
        seconds = rng.uniform(min(_SHORTEST_REVERB_S, config.reverb_s), config.reverb_s)
        waveform = reverberate(waveform, sampling_rate, seconds, rng)
    if config.noise_db is not None and rng.random() < config.augment:
        level = rng.uniform(config.noise_db, _QUIETEST_NOISE_DB)
        waveform = add_noise(waveform, level, rng)
    return np.ascontiguousarray(waveform, np.float32)


def reverberate(
    waveform: np.ndarray, sampling_rate: int, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """Convolve a waveform with a synthetic room response; length and power stay.

    The response is the direct sound and noise that decays by 60 dB in the reverberation time
    (Lebart et al. 2001; Polack's model).
    """
    count = max(1, round(seconds * sampling_rate))
    decay = 10 ** (-3 * np.arange(count) / count)
    tail = rng.standard_normal(count) * decay
    share = rng.uniform(*_DIRECT)
    response = np.sqrt((1 - share) / np.sum(tail**2)) * tail
    response[0] += np.sqrt(share)
    wet = fftconvolve(waveform, response)[: len(waveform)]
    power, own = np.mean(waveform**2), np.mean(wet**2)
    return (wet * np.sqrt(power / own) if own > 0 else wet).astype(np.float32)


def add_noise(
    waveform: np.ndarray,
    level_db: float,
    rng: np.random.Generator,
    *,
    recording: np.ndarray | None = None,
) -> np.ndarray:
    """Add noise at a ratio of the waveform's power to the noise's, in dB.

    It is a random part of `recording`, if given. Otherwise its power falls with frequency by a
    random exponent from 0 (white) to 2 (brown).
    """
    if recording is None:
        spectrum = np.fft.rfft(rng.standard_normal(len(waveform)))
        frequencies = np.maximum(np.arange(len(spectrum)), 1)
        noise = np.fft.irfft(spectrum * frequencies ** (-rng.uniform(0, 2) / 2), len(waveform))
    else:
        start = rng.integers(len(recording))
        noise = np.take(recording, np.arange(start, start + len(waveform)), mode="wrap")
    power = np.mean(noise**2)
    if power <= 0:
        return waveform
    wanted = np.mean(waveform**2) * 10 ** (-level_db / 10)
    return (waveform + np.sqrt(wanted / power) * noise).astype(np.float32)


def mask_inputs(inputs: Tensor, rng: np.random.Generator) -> Tensor:
    """Mask spans of a batch's features (n, frames, bins) or (n, bins, frames), or samples (n, s).

    Spectrograms get two spans of time and two of frequency, each at most an eighth; waveforms two
    spans of zeros.
    """
    if inputs.ndim == 3:
        return mask_spectrogram(inputs, rng)
    masked = inputs.clone()
    size = inputs.shape[-1]
    for row in masked:
        for _ in range(_MASKS):
            width = int(rng.integers(size // _WIDEST_MASK + 1))
            start = int(rng.integers(size - width + 1))
            row[start : start + width] = 0
    return torch.as_tensor(masked)
