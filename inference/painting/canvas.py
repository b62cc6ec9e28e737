"""Canvas: the latent space of a pretrained image autoencoder."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import VQModel
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.core.presets import resolve
from clip2clap.embeddings.checkpoint import read_json
from clip2clap.inference.loading.components import load_strictly
from clip2clap.inference.loading.files import fetch_folder
from clip2clap.media.images import load_image
from clip2clap.models.autoencoders import AUTOENCODERS, Autoencoder, vae_scale_factor

# Names of the autoencoder in a pipeline: Kandinsky's, and the others'.
_PARTS = ("movq", "vae", "vqvae")
_SMALLEST_DEFAULT = 64
_USUAL_DEFAULT = 256


class Canvas:
    """Latent space of an image autoencoder, in which `paint` optimizes an image.

    Latents, of shape (1, channels, height / multiple, width / multiple), are in units of the
    autoencoder's own scale, the standard deviation of its codebook or of the latents it was trained
    on, so that a step of 0.1 means the same for all. Heights and widths are in pixels, multiples of
    `multiple`.

    Args:
        autoencoder: Autoencoder of RGB images with values from -1 to 1; its weights are frozen.

    Raises:
        UserError: If it is of another class, or not of RGB images.

    Examples:
        >>> import torch
        >>> from clip2clap.inference import Canvas
        >>> canvas = Canvas.from_pretrained("demo")
        >>> canvas.pixels(canvas.noise(64, 64, torch.Generator())).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(self, autoencoder: Autoencoder):
        if not isinstance(autoencoder, Autoencoder):
            raise UserError(
                f"Expected one of {', '.join(AUTOENCODERS)} as autoencoder, got a "
                f"{type(autoencoder).__name__}."
            )
        config: Any = autoencoder.config
        if (config["in_channels"], config["out_channels"]) != (3, 3):
            raise UserError(
                "Expected an autoencoder of RGB images, got one with "
                f"{config['in_channels']} channels in and {config['out_channels']} out."
            )
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.multiple = vae_scale_factor(autoencoder)
        """Divisor of height and width, in pixels."""
        # Mean and standard deviation of the autoencoder's latents.
        if self._codebook is not None:
            self._mean, self._std = 0.0, self._codebook.std().item()
        else:
            self._mean = config.get("shift_factor") or 0.0
            self._std = 1 / config["scaling_factor"]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, device: torch.device | str = "cpu"
    ) -> Self:
        """Load the autoencoder of a checkpoint, in float32.

        Args:
            pretrained_model_name_or_path: Preset, hub id or folder of a pipeline with an
                autoencoder `movq` (Kandinsky), `vae` or `vqvae`; or the folder of one.
            device: Device of the autoencoder.

        Raises:
            UserError: If there is none, or its weights do not match its config.
        """
        name = str(pretrained_model_name_or_path)
        folder = fetch_folder(resolve(name, "decoder"), _PARTS, kind="decoder")
        for part in (folder, *(folder / name for name in _PARTS)):
            config = read_json(part / "config.json") if (part / "config.json").is_file() else {}
            model_class = AUTOENCODERS.get(str(config.get("_class_name")))
            if model_class is not None:
                return cls(load_strictly(model_class, part, dtype=torch.float32).to(device))
        raise UserError(
            f"{name} holds no image autoencoder. Give a folder of one ("
            f"{', '.join(AUTOENCODERS)}), or a pipeline with one, such as "
            "kandinsky-community/kandinsky-2-2-decoder."
        )

    @property
    def device(self) -> torch.device:
        """Device of the autoencoder."""
        return self.autoencoder.device

    @property
    def default_side(self) -> int:
        """Width and height that the autoencoder was trained on, in pixels."""
        side = self.autoencoder.config["sample_size"]
        # In published VQModels this is the size of the latent.
        return side if side >= _SMALLEST_DEFAULT else _USUAL_DEFAULT

    def noise(self, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw a latent with a generator on the CPU: entries of the codebook, or Gaussian noise."""
        shape = height // self.multiple, width // self.multiple
        if self._codebook is None:
            channels = self.autoencoder.config["latent_channels"]
            drawn = torch.randn(1, channels, *shape, generator=generator, dtype=torch.float32)
            return drawn.to(self.device)
        entries = torch.randint(len(self._codebook), shape, generator=generator)
        drawn = self._codebook[entries.to(self.device)].movedim(-1, 0)[None]
        return self._to_units(drawn)

    @torch.no_grad()
    def encode(self, image: Image.Image | str | Path, height: int, width: int) -> Tensor:
        """Encode an image, cropped about its center, to a latent.

        Raises:
            UnreadableImageError: If it is unreadable.
        """
        fitted = ImageOps.fit(load_image(image), (width, height), Image.Resampling.LANCZOS)
        pixels = torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)[None]
        values = (pixels.float() / 127.5 - 1).to(self.device, self.autoencoder.dtype)
        encoded = self.autoencoder.encode(values)
        # A VQModel returns latents, the others their distribution.
        latent = encoded.latents if self._codebook is not None else encoded.latent_dist.mode()
        return self._to_units(latent)

    def pixels(self, latent: Tensor) -> Tensor:
        """Decode a latent to RGB pixels, shape (1, 3, height, width), in [0, 1].

        The gradient ignores the clamping, or clamped pixels would never change again.
        """
        options = {} if self._codebook is None else {"force_not_quantize": True}
        values = self.autoencoder.decode(self._from_units(latent), **options).sample.float()
        values = values / 2 + 0.5
        return values + (values.clamp(0, 1) - values).detach()

    def distance(self, latent: Tensor) -> Tensor:
        """Compute the mean squared distance of a latent to the nearest entries of the codebook.

        For an autoencoder without one it is that to the mean of its Gaussian prior.
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
        return (latent * self._std + self._mean).to(self.autoencoder.dtype)

    def _to_units(self, latent: Tensor) -> Tensor:
        return (latent.float() - self._mean) / self._std
