"""Autoencoder classes of images and of log-mel spectrograms."""

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, VQModel

from clip2clap.core.errors import CheckpointError
from clip2clap.models.patch_autoencoder import PatchAutoencoder

Autoencoder = AutoencoderKL | VQModel | PatchAutoencoder

AUTOENCODERS: dict[str, Any] = {
    model.__name__: model for model in (AutoencoderKL, VQModel, PatchAutoencoder)
}
"""Autoencoder classes by class name."""


def autoencoder_class(index: dict[str, Any], part: str, folder: Path) -> Any:
    """Return the autoencoder class that a pipeline's index names.

    Raises:
        CheckpointError: If the class is not supported.
    """
    class_name = str((index.get(part) or [None, None])[1])
    if class_name not in AUTOENCODERS:
        raise CheckpointError(
            f"{folder} names an autoencoder {class_name!r}; the known ones are "
            f"{', '.join(AUTOENCODERS)}."
        )
    return AUTOENCODERS[class_name]


def vae_scale_factor(vae: Autoencoder) -> int:
    """Return the pixels, or mel frames and bins, per latent along each side."""
    if isinstance(vae, PatchAutoencoder):
        return vae.config["patch_size"]
    return 2 ** (len(vae.config["block_out_channels"]) - 1)
