"""Log-mel spectrograms as AudioLDM's vocoder reads them."""

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from clip2clap.training.demo.data import SAMPLING_RATE

HOP = 160
WINDOW = 1024
MEL_BINS = 64
# The clip's length: 512 frames, 5.12 s.
FRAMES = 512
# Amplitudes below this are silence; its logarithm is the smallest value of a spectrogram.
FLOOR = 1e-5


def mel_filters() -> Tensor:
    """Return the filter bank of 64 Slaney bins up to 8 kHz, shape (513, 64)."""
    filters = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1,
        num_mel_filters=MEL_BINS,
        min_frequency=0.0,
        max_frequency=SAMPLING_RATE / 2,
        sampling_rate=SAMPLING_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return torch.from_numpy(filters).float()


def log_mel(waveforms: Tensor, filters: Tensor) -> Tensor:
    """Compute log-mel spectrograms, differentiably.

    Args:
        waveforms: Shape (n, samples), `samples` a multiple of `HOP`, at 16 kHz.
        filters: `mel_filters()`.

    Returns:
        Natural logarithms of mel amplitudes, shape (n, samples / HOP, 64).
    """
    padding = (WINDOW - HOP) // 2
    padded = torch.nn.functional.pad(waveforms.unsqueeze(1), (padding, padding), mode="reflect")
    spectra = torch.stft(
        padded.squeeze(1),
        WINDOW,
        HOP,
        window=torch.hann_window(WINDOW, device=waveforms.device),
        center=False,
        return_complex=True,
    )
    # The small number keeps the gradient of the absolute value finite at zero.
    amplitudes = (spectra.real.square() + spectra.imag.square() + 1e-9).sqrt()
    return (amplitudes.transpose(1, 2) @ filters).clamp(min=FLOOR).log()
