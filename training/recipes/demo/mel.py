"""Log-mel spectrograms as AudioLDM's vocoder reads them."""

import torch
from torch import Tensor

from clip2clap.models.spectral_vocoder import framed_spectra, slaney_filters
from clip2clap.training.recipes.demo.data import SAMPLING_RATE

HOP = 160
WINDOW = 1024
MEL_BINS = 64
# The clip's length: 512 frames, 5.12 s.
FRAMES = 512
# Amplitudes below this are silence; its logarithm is the smallest value of a spectrogram.
FLOOR = 1e-5


def mel_filters() -> Tensor:
    """Return the filter bank of 64 Slaney bins up to 8 kHz, shape (513, 64)."""
    return slaney_filters(WINDOW, MEL_BINS, SAMPLING_RATE)


def log_mel(waveforms: Tensor, filters: Tensor) -> Tensor:
    """Compute log-mel spectrograms, differentiably.

    Args:
        waveforms: Shape (n, samples), `samples` a multiple of `HOP`, at 16 kHz.
        filters: `mel_filters()`.

    Returns:
        Natural logarithms of mel amplitudes, shape (n, samples / HOP, 64).
    """
    window = torch.hann_window(WINDOW, device=waveforms.device)
    spectra = framed_spectra(waveforms, window, HOP)
    # Epsilon keeps the gradient of the absolute value finite at zero.
    amplitudes = (spectra.real.square() + spectra.imag.square() + 1e-9).sqrt()
    return (amplitudes @ filters).clamp(min=FLOOR).log()
