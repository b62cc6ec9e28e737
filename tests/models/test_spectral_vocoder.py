"""The vocoder that predicts magnitudes and lets Griffin-Lim find the phases."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.training.recipes.demo.audio_bank import HOP, log_mel


@pytest.fixture(scope="module")
def vocoder():
    return SpectralVocoder.from_pretrained(
        DEMO_FOLDER / "image_to_audio" / "vocoder", torch_dtype=torch.float32
    )


@pytest.fixture(scope="module")
def sounds():
    """A chirp, bursts of noise and a chord, a second each."""
    seconds = torch.arange(100 * HOP) / 16_000
    chirp = torch.sin(2 * torch.pi * (200 + 1500 * seconds) * seconds)
    generator = torch.Generator().manual_seed(0)
    loudness = 0.05 + 0.2 * (torch.sin(30 * seconds) > 0)
    bursts = torch.randn(len(seconds), generator=generator) * loudness
    pitches = torch.tensor([[440], [660], [990]])
    chord = torch.sin(2 * torch.pi * pitches * seconds).mean(dim=0)
    return torch.stack([chirp, bursts, chord]) * 0.8


def test_a_frame_gives_one_hop_of_samples(vocoder):
    with torch.inference_mode():
        assert vocoder(torch.full((2, 20, 64), -5.0)).shape == (2, 20 * HOP)
        assert vocoder(torch.full((20, 64), -5.0)).shape == (20 * HOP,)


def test_the_same_spectrogram_gives_the_same_audio_alone_or_in_a_batch(vocoder, sounds):
    mels = log_mel(sounds)
    with torch.inference_mode():
        together = vocoder(mels)
        torch.testing.assert_close(vocoder(mels[1]), together[1], atol=1e-3, rtol=0)
        assert torch.equal(vocoder(mels), together)


def test_the_audio_has_the_mels_it_was_made_from(vocoder, sounds):
    mels = log_mel(sounds)
    with torch.inference_mode():
        made = log_mel(vocoder(mels))
        swapped = F.l1_loss(made, mels.roll(1, 0))
    assert F.l1_loss(made, mels) < 0.25 < 2 < swapped


def test_spectra_survive_the_way_through_time(vocoder, sounds):
    with torch.inference_mode():
        torch.testing.assert_close(vocoder.istft(vocoder.stft(sounds)), sounds, atol=1e-5, rtol=0)


def test_silence_stays_silent(vocoder):
    with torch.inference_mode():
        assert vocoder(torch.full((1, 50, 64), np.log(1e-5))).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(64,), (1, 10, 80), (1, 1, 10, 64)])
def test_another_shape_is_refused(vocoder, shape):
    with pytest.raises(UserError, match=r"shape \(n, frames, 64\)"):
        vocoder(torch.zeros(shape))


@pytest.mark.parametrize("rates", [(4, 40), (1000,)])
def test_a_hop_that_leaves_gaps_is_refused(rates):
    with pytest.raises(UserError, match="one hop of at most half the window"):
        SpectralVocoder(upsample_rates=rates)
