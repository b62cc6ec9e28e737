"""The autoencoders of pictures that can be decoded from and painted with."""

from typing import Any

from diffusers import AutoencoderKL, VQModel

from clip2clap.inference.patch_autoencoder import PatchAutoencoder

Autoencoder = AutoencoderKL | VQModel | PatchAutoencoder

AUTOENCODERS: dict[str, Any] = {
    model.__name__: model for model in (AutoencoderKL, VQModel, PatchAutoencoder)
}
"""By the names that their configs have for them."""


def pixels_per_latent(autoencoder: Autoencoder) -> int:
    """Give the pixels along each side that one place of the latents stands for."""
    if isinstance(autoencoder, PatchAutoencoder):
        return autoencoder.config["patch_size"]
    return 2 ** (len(autoencoder.config["block_out_channels"]) - 1)
