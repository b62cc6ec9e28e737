"""What is painted on: the latent of a pretrained autoencoder of pictures."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import VQModel
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.embeddings.checkpoint import read_json
from clip2clap.inference.loading.generator import fetch_folder, load_strictly
from clip2clap.media.images import load_image
from clip2clap.models.autoencoders import AUTOENCODERS, Autoencoder, vae_scale_factor

# Where pipelines keep theirs: Kandinsky's, and the others'.
_PARTS = ("movq", "vae", "vqvae")


class Canvas:
    """An autoencoder's latent, seen as something to paint on.

    Latents are in units of the autoencoder's own scale, so that a step of 0.1 means the same for
    all: the spread of its codebook, or of what it was trained to encode pictures to.

    Args:
        autoencoder: Decodes latents to RGB pictures with values from -1 to 1; its weights are left
            as they are, and take no gradient from now on.

    Raises:
        UserError: If it is of another kind, or not of RGB pictures.
    """

    def __init__(self, autoencoder: Autoencoder):
        if not isinstance(autoencoder, Autoencoder):
            raise UserError(
                f"Expected one of {', '.join(AUTOENCODERS)} to paint with, got a "
                f"{type(autoencoder).__name__}."
            )
        config: Any = autoencoder.config
        if (config["in_channels"], config["out_channels"]) != (3, 3):
            raise UserError(
                "Expected an autoencoder of RGB pictures, got one with "
                f"{config['in_channels']} channels in and {config['out_channels']} out."
            )
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.multiple = vae_scale_factor(autoencoder)
        """What the sides of a picture are multiples of, in pixels."""
        # The mean and the spread of latents in the autoencoder's own numbers.
        if self._codebook is not None:
            self._shift, self._spread = 0.0, self._codebook.std().item()
        else:
            self._shift = config.get("shift_factor") or 0.0
            self._spread = 1 / config["scaling_factor"]

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, *, device: torch.device | str = "cpu"
    ) -> Self:
        """Load the autoencoder of a checkpoint.

        Args:
            name_or_folder: A pipeline on the hub or in a folder, which has one as its `movq`
                (Kandinsky), `vae` or `vqvae`; or the folder of one.
            device: Where to compute.

        Returns:
            The canvas, in float32.

        Raises:
            UserError: If there is none, or its weights don't fit its configuration.
        """
        folder = fetch_folder(name_or_folder, _PARTS)
        for part in (folder, *(folder / name for name in _PARTS)):
            if (part / "config.json").is_file():
                model_class = AUTOENCODERS.get(
                    str(read_json(part / "config.json").get("_class_name"))
                )
                if model_class is not None:
                    return cls(load_strictly(model_class, part, dtype=torch.float32).to(device))
        raise UserError(
            f"{name_or_folder} holds no autoencoder of pictures. Name a folder of one ("
            f"{', '.join(AUTOENCODERS)}), or a pipeline with one, such as "
            "kandinsky-community/kandinsky-2-2-decoder."
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.autoencoder.device

    def noise(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw a latent to start from: random entries of the codebook, or Gaussian noise.

        Args:
            height: Of the picture in pixels, a multiple of `multiple`.
            width: The same.
            generator: Where the noise comes from, on the CPU.

        Returns:
            Shape (1, channels, height / multiple, width / multiple).
        """
        shape = height // self.multiple, width // self.multiple
        if self._codebook is None:
            channels = self.autoencoder.config["latent_channels"]
            return torch.randn(1, channels, *shape, generator=generator).to(self.device)
        entries = torch.randint(len(self._codebook), shape, generator=generator)
        drawn = self._codebook[entries.to(self.device)].movedim(-1, 0)[None]
        return self._to_units(drawn)

    @torch.no_grad()
    def latent_of(self, image: Image.Image | str | Path, height: int, width: int) -> Tensor:
        """Encode a picture, cut to the shape wanted about its middle.

        Args:
            image: A PIL image or a path.
            height: Of the picture to paint in pixels, a multiple of `multiple`.
            width: The same.

        Returns:
            Shape (1, channels, height / multiple, width / multiple).

        Raises:
            UnreadableImageError: If it can't be read.
        """
        fitted = ImageOps.fit(load_image(image), (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)[None]
        values = (pixels.float() / 127.5 - 1).to(self.device)
        encoded = self.autoencoder.encode(values)
        # A VQModel gives latents, the others what they are drawn from.
        latent = encoded.latents if self._codebook is not None else encoded.latent_dist.mode()
        return self._to_units(latent)

    def pixels(self, latent: Tensor) -> Tensor:
        """Decode a latent.

        Args:
            latent: Shape (1, channels, height / multiple, width / multiple).

        Returns:
            RGB pixels, shape (1, 3, height, width), in [0, 1]. Where they were cut off, the
            gradient goes through as if they had not been, or they would never come back.
        """
        options = {} if self._codebook is None else {"force_not_quantize": True}
        values = self.autoencoder.decode(self._from_units(latent), **options).sample / 2 + 0.5
        return values + (values.clamp(0, 1) - values).detach()

    def distance(self, latent: Tensor) -> Tensor:
        """Measure how far a latent has gone from what the autoencoder knows.

        Args:
            latent: Shape (1, channels, rows, columns).

        Returns:
            The mean squared distance to the nearest entry of the codebook; for an autoencoder
            without one, to the middle of the Gaussian that it was trained towards.
        """
        if self._codebook is None:
            return latent.square().mean()
        nearest = self.autoencoder.quantize(self._from_units(latent))[0].detach()
        return F.mse_loss(latent, self._to_units(nearest))

    @property
    def _codebook(self) -> Tensor | None:
        """The codebook's entries, shape (n, channels)."""
        if not isinstance(self.autoencoder, VQModel):
            return None
        return self.autoencoder.quantize.embedding.weight.detach()

    def _from_units(self, latent: Tensor) -> Tensor:
        return latent * self._spread + self._shift

    def _to_units(self, latent: Tensor) -> Tensor:
        return (latent - self._shift) / self._spread


def to_image(pixels: Tensor) -> Image.Image:
    """Turn pixels into a picture.

    Args:
        pixels: Shape (1, 3, height, width), in [0, 1].

    Returns:
        The picture in mode RGB.
    """
    values = (pixels.detach()[0].clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
