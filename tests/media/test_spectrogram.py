"""Spectrograms: tones, silence, and the image's axes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clip2clap.media.spectrogram import DYNAMIC_RANGE_DB, log_mel_spectrogram, write_spectrogram

RATE = 16_000


def tone(hertz: float, *, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


@pytest.mark.parametrize("hertz", [250.0, 1234.5, 3000.0, 6800.0])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(hertz: float) -> None:
    decibels = log_mel_spectrogram(tone(hertz), RATE)
    mels = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 128 + 2)[1:-1]
    centres = 700 * (10 ** (mels / 2595) - 1)
    loudest = np.argmax(decibels[:, decibels.shape[1] // 2])
    assert loudest in np.argsort(np.abs(centres - hertz))[:3]


def test_a_spectrogram_is_relative_to_its_loudest_point_and_silence_is_the_floor() -> None:
    loud, soft = (log_mel_spectrogram(tone(440, level=level), RATE) for level in (0.9, 0.009))
    assert loud.max() == pytest.approx(0)
    np.testing.assert_allclose(loud, soft, atol=0.5)
    for level in (0.0, 0.3):
        silence = log_mel_spectrogram(np.full(RATE, level, dtype=np.float32), RATE)
        assert (silence == -DYNAMIC_RANGE_DB).all()
    np.testing.assert_allclose(log_mel_spectrogram(tone(440) + 0.3, RATE), loud, atol=0.5)


def test_a_spectrogram_is_a_png_whose_bright_line_lies_at_the_tone(tmp_path: Path) -> None:
    write_spectrogram(tmp_path / "tone.png", tone(1000, seconds=2), RATE)
    with Image.open(tmp_path / "tone.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (1800, 800))
        column = np.asarray(picture.convert("L"), dtype=float)[:, 800]
    # Inside the axes, past the white margins above and below the picture.
    inside = np.flatnonzero(column < 250)
    brightest = inside[np.argmax(column[inside[5] : inside[-5]]) + 5]
    height = 1 - (brightest - inside[0]) / (inside[-1] - inside[0])
    expected = np.log10(1 + 1000 / 700) / np.log10(1 + 8000 / 700)
    assert height == pytest.approx(expected, abs=0.02)
