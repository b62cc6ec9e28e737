"""Alterations of images and audio in the demo recipe's evaluation."""

import numpy as np
import pytest
from PIL import Image

from clip2clap.training.recipes.demo.alterations import AUDIO_ALTERATIONS, IMAGE_ALTERATIONS


@pytest.mark.parametrize("name", IMAGE_ALTERATIONS)
@pytest.mark.parametrize("size", [(64, 64), (3, 200)])
def test_an_altered_image_is_another_of_three_channels(name, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    altered = IMAGE_ALTERATIONS[name](image)
    assert altered.mode == "RGB"
    assert altered.size != image.size or altered.tobytes() != image.tobytes()


@pytest.mark.parametrize("name", AUDIO_ALTERATIONS)
def test_altered_audio_is_other_audio(name):
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    altered = AUDIO_ALTERATIONS[name](waveform)
    assert altered.dtype == np.float32
    assert np.isfinite(altered).all()
    assert altered.shape != waveform.shape or not np.allclose(altered, waveform)


def test_high_frequencies_are_removed_and_low_ones_kept():
    time = np.arange(16_000) / 16_000
    for frequency, kept in ((1_000, True), (6_000, False)):
        tone = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        power = AUDIO_ALTERATIONS["below 4 kHz"](tone).std() / tone.std()
        assert (power > 0.9) == kept
