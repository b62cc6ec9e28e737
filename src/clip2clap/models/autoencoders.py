"""Autoencoder classes of images and of log-mel spectrograms."""

from typing import Any

from diffusers import AutoencoderKL, VQModel

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
