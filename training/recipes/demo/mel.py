"""Log-mel spectrograms as AudioLDM's vocoder reads them."""

import functools

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


def log_mel(waveforms: Tensor) -> Tensor:
    """Compute log-mel spectrograms, differentiably, in 64 Slaney bins up to 8 kHz.

    Args:
        waveforms: Shape (n, samples), `samples` a multiple of `HOP`, at 16 kHz.

    Returns:
        Natural logarithms of mel amplitudes, shape (n, samples / HOP, 64).
    """
    window = torch.hann_window(WINDOW, device=waveforms.device)
    spectra = framed_spectra(waveforms, window, HOP)
    # Epsilon keeps the gradient of the absolute value finite at zero.
    amplitudes = (spectra.real.square() + spectra.imag.square() + 1e-9).sqrt()
    return (amplitudes @ _filters().to(waveforms.device)).clamp(min=FLOOR).log()


@functools.cache
@torch.inference_mode(False)  # Training cannot use a tensor that inference mode made first.
def _filters() -> Tensor:
    return slaney_filters(WINDOW, MEL_BINS, SAMPLING_RATE)
