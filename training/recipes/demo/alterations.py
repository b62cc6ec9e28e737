"""Alterations of images and audio that leave their class alone, for the evaluation."""

import io
from collections.abc import Callable

import numpy as np
import soxr
from PIL import Image, ImageOps

from clip2clap.training.recipes.demo.data import SAMPLING_RATE


def _compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=25)
    return Image.open(file).convert("RGB")


def _half_size(image: Image.Image) -> Image.Image:
    size = max(image.width // 2, 1), max(image.height // 2, 1)
    return image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image) -> Image.Image:
    """Keep the central 80 % of each side."""
    left, top = image.width // 10, image.height // 10
    return image.crop((left, top, image.width - left, image.height - top))


def _dark(image: Image.Image) -> Image.Image:
    return image.point(lambda value: value * 0.6)


def _noise(waveform: np.ndarray) -> np.ndarray:
    """Add white noise 20 dB below the audio."""
    noise = np.random.default_rng(0).standard_normal(len(waveform))
    return (waveform + 0.1 * waveform.std() * noise).astype(np.float32)


def _telephone(waveform: np.ndarray) -> np.ndarray:
    """Keep frequencies below 4 kHz."""
    narrow = soxr.resample(waveform, SAMPLING_RATE, SAMPLING_RATE // 2)
    return soxr.resample(narrow, SAMPLING_RATE // 2, SAMPLING_RATE)


def _first_half(waveform: np.ndarray) -> np.ndarray:
    return waveform[: max(len(waveform) // 2, 1)]


def _clipped(waveform: np.ndarray) -> np.ndarray:
    """Clip at a third of the peak, as a recording at too high a level."""
    limit = np.abs(waveform).max() / 3
    return waveform.clip(-limit, limit)


IMAGE_ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "cropped to 80 %": _crop,
    "half the size": _half_size,
    "JPEG of quality 25": _compressed,
    "darker": _dark,
    "gray": lambda image: ImageOps.grayscale(image).convert("RGB"),
}

AUDIO_ALTERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "40 dB quieter": lambda waveform: waveform * 0.01,
    "noise at 20 dB": _noise,
    "below 4 kHz": _telephone,
    "first half": _first_half,
    "clipped": _clipped,
}
