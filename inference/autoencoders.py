"""The autoencoders that can be decoded from and painted with."""

from typing import Any

from diffusers import AutoencoderKL, VQModel

from clip2clap.inference.patch_autoencoder import PatchAutoencoder

Autoencoder = AutoencoderKL | VQModel | PatchAutoencoder

AUTOENCODERS: dict[str, Any] = {
    model.__name__: model for model in (AutoencoderKL, VQModel, PatchAutoencoder)
}
"""Those of pictures, by the names that their configs have for them."""


def vae_scale_factor(vae: Autoencoder) -> int:
    """Give how many pixels along each side, or mel frames and bins, a latent stands for."""
    if isinstance(vae, PatchAutoencoder):
        return vae.config["patch_size"]
    return 2 ** (len(vae.config["block_out_channels"]) - 1)
