"""An autoencoder without a network: each patch of a picture by its principal components."""

from collections.abc import Iterator
from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.errors import UserError


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Encodes pictures patch by patch, called as diffusers' `AutoencoderKL` is.

    The components are the linear ones that lose least (Pearson 1901,
    https://doi.org/10.1080/14786440109462720), as JPEG's cosines nearly are. They are known without
    any training, and take no time to decode.

    Args:
        in_channels: Channels of a picture.
        out_channels: The same.
        latent_channels: Components that are kept of a patch.
        patch_size: Pixels along each side of a patch, which becomes one place of the latents.
        sample_size: Height and width of the pictures that it was made for.
        scaling_factor: Latents times this are of unit scale.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 32,
        patch_size: int = 8,
        sample_size: int = 64,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < latent_channels <= in_channels * patch_size**2:
            raise UserError(
                f"Expected latent_channels from 1 to {in_channels * patch_size**2}, the values of "
                f"a patch of {patch_size} x {patch_size} pixels, got {latent_channels}."
            )
        self.encoder = nn.Conv2d(in_channels, latent_channels, patch_size, patch_size)
        self.decoder = nn.ConvTranspose2d(latent_channels, out_channels, patch_size, patch_size)

    @classmethod
    def from_pictures(
        cls, pictures: Tensor, *, latent_channels: int = 32, patch_size: int = 8
    ) -> Self:
        """Find the principal components of pictures' patches.

        A latent channel's deviation is the square root of its component's, up to a factor that
        makes all of them together of unit scale: what shows most is what counts most.

        Args:
            pictures: Shape (n, channels, height, width), sides multiples of the patch's: uint8,
                whose 0 to 255 become -1 to 1, or floating point, such as log-mel spectrograms of
                one channel, taken as they are.
            latent_channels: Components to keep.
            patch_size: Pixels along each side of a patch.

        Raises:
            UserError: If there are no such pictures.
        """
        is_bytes, is_floats = pictures.dtype == torch.uint8, pictures.is_floating_point()
        if pictures.ndim != 4 or not len(pictures) or not (is_bytes or is_floats):
            raise UserError(
                "Expected pictures of shape (n, channels, height, width), uint8 or floating point, "
                f"got {tuple(pictures.shape)}, {pictures.dtype}."
            )
        channels, *sides = pictures.shape[1:]
        if any(side % patch_size for side in sides):
            raise UserError(
                f"Expected sides that are multiples of {patch_size} pixels, got {tuple(sides)}."
            )
        model = cls(channels, channels, latent_channels, patch_size, sample_size=max(sides))
        size = channels * patch_size**2

        def parts() -> Iterator[Tensor]:
            for part in pictures.split(256):
                yield part / 127.5 - 1 if is_bytes else part.float()

        totals = torch.zeros(channels, dtype=torch.float64)
        for part in parts():
            totals += part.sum(dim=(0, 2, 3), dtype=torch.float64)
        centre = (totals / (len(pictures) * sides[0] * sides[1])).float()
        spread = torch.zeros(size, size, dtype=torch.float64)
        for part in parts():
            centred = part - centre[:, None, None]
            rows = F.unfold(centred, patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1)
            spread += (rows.T @ rows).double() / (len(pictures) * len(rows) / len(part))
        variances, components = torch.linalg.eigh(spread)
        deviations = variances.flip(0)[:latent_channels].clamp(min=1e-8).sqrt().float()
        scale = (deviations * deviations.mean()).sqrt()[:, None, None, None]
        kept = components.flip(1)[:, :latent_channels].T.float()
        # Which of its two signs a component comes with differs from machine to machine.
        kept *= kept.gather(1, kept.abs().argmax(dim=1, keepdim=True)).sign()
        kept = kept.view(latent_channels, channels, patch_size, patch_size)
        bias = -(kept / scale * centre[:, None, None]).sum(dim=(1, 2, 3))
        model.encoder.load_state_dict({"weight": kept / scale, "bias": bias})
        model.decoder.load_state_dict({"weight": kept * scale, "bias": centre})
        return model

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Encode pictures.

        Args:
            x: Shape (n, channels, height, width); of photographs, values from -1 to 1.
            return_dict: Return an object rather than a tuple.

        Returns:
            An `AutoencoderKLOutput`, whose `latent_dist` has no spread.
        """
        posterior = IdentityDistribution(self.encoder(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Decode latents.

        Args:
            z: Shape (n, latent_channels, height / patch_size, width / patch_size).
            return_dict: Return an object rather than a tuple.

        Returns:
            A `DecoderOutput` whose `sample` is scaled as the pictures were.
        """
        sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)
