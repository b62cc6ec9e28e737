"""Autoencoder classes of images and of log-mel spectrograms."""

from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from clip2clap.models.patch_autoencoder import PatchAutoencoder

Autoencoder = AutoencoderKL | VQModel | PatchAutoencoder

AUTOENCODERS: dict[str, Any] = {
    model.__name__: model for model in (AutoencoderKL, VQModel, PatchAutoencoder)
}
"""Autoencoder classes by class name."""


def vae_scale_factor(vae: Autoencoder) -> int:
    """Return the pixels, or mel frames and bins, per latent along each side."""
    if isinstance(vae, PatchAutoencoder):
        return vae.config["patch_size"]
    return 2 ** (len(vae.config["block_out_channels"]) - 1)


def decode(vae: Autoencoder, latents: Tensor, **options: Any) -> Tensor:
    """Decode latents (n, channels, rows, columns), as they are scaled in the autoencoder.

    Those of 16 bits are channels last, since convolutions in bfloat16 on the CPU reorder other
    formats at every call: AudioLDM's autoencoder would take three times as long.
    """
    is_half = vae.dtype.itemsize == 2
    memory_format = torch.channels_last if is_half else torch.preserve_format
    given: Any = latents.to(vae.dtype, memory_format=memory_format)
    return vae.decode(given, return_dict=False, **options)[0]
