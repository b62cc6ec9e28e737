"""Comparison of generated waveforms with training audio."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, log_mel

if TYPE_CHECKING:
    from clip2clap.training.recipes.demo.recipe import Recipe


def similarity_to_training(
    recipe: "Recipe", pipeline: ImageToAudioPipeline, generated: Tensor
) -> dict[str, float]:
    """Compare generated with training audio, and training audio with its reconstructions.

    Both as waveforms and as log-mel spectrograms: the vocoder predicts its own phases, so that the
    waveform of a reconstruction differs.
    """
    bank = recipe.bank("train")
    known = bank.batch(torch.arange(len(bank)), CLIP_SAMPLES)
    sample = torch.arange(0, len(bank), max(len(bank) // 100, 1))
    vae: Any = pipeline.vae
    copies = []
    with torch.inference_mode():
        for part in known[sample].split(8):
            mels = log_mel(part).unsqueeze(1).to(vae.dtype)
            decoded = vae.decode(vae.encode(mels).latent_dist.mode()).sample
            copies.append(pipeline.vocoder(decoded.float()[:, 0])[:, :CLIP_SAMPLES])
    waveforms = known, torch.cat(copies), generated[:: max(len(generated) // 50, 1)]
    views = {
        "waveforms": lambda waveforms: waveforms.unsqueeze(1),
        "spectrograms": lambda waveforms: log_mel(waveforms).transpose(1, 2),
    }
    results = {}
    for name, view in views.items():
        training, copied, tried = (view(part) for part in waveforms)
        pairs = zip(copied.split(1), training[sample].split(1), strict=True)
        own = torch.cat([max_cross_correlation(copy, clip)[0] for copy, clip in pairs])
        nearest = max_cross_correlation(tried, training).amax(1)
        results |= {
            f"{name}: similarity of a training clip and its reconstruction, min": own.min().item(),
            f"{name}: similarity of a training clip and its reconstruction, median": (
                own.median().item()
            ),
            f"{name}: similarity to the nearest training clip, median": nearest.median().item(),
            f"{name}: similarity to the nearest training clip, max": nearest.max().item(),
        }
    return results


def max_cross_correlation(queries: Tensor, known: Tensor) -> Tensor:
    """Compute the maximum over time of the normalized cross-correlation of all pairs.

    Args:
        queries: Shape (n, channels, times): waveforms of one channel, or the bins of spectrograms.
        known: Shape (m, channels, times).

    Returns:
        Shape (n, m), from 0 to 1.
    """
    parts = [_padded_spectra(part).conj() for part in known.split(64)]
    return torch.stack(
        [
            torch.cat([torch.fft.irfft((one * part).sum(1)).abs().amax(1) for part in parts])
            for one in _padded_spectra(queries)
        ]
    )


def _padded_spectra(signals: Tensor) -> Tensor:
    """Center signals (n, channels, times) to unit norm, and transform them, zero-padded."""
    centered = signals - signals.mean(dim=2, keepdim=True)
    unit = F.normalize(centered.flatten(1), dim=1).view_as(signals)
    return torch.fft.rfft(unit, 2 * signals.shape[2])
