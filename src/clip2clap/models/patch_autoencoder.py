"""Linear autoencoder of image patches."""

from typing import Any, Self

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, IdentityDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.core.moments import Moments


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Autoencoder of image patches by principal components, called as diffusers' `AutoencoderKL`.

    Principal components are the linear code of least error (Pearson 1901,
    https://doi.org/10.1080/14786440109462720). They need no training, and decode fast.

    Args:
        in_channels: Channels of an image.
        out_channels: The same.
        latent_channels: Components kept per patch.
        patch_size: Pixels along each side of a patch.
        sample_size: Height and width of the images it was fitted to.
        scaling_factor: Factor that brings latents to unit scale.

    Examples:
        >>> import torch
        >>> vae = PatchAutoencoder(latent_channels=4, patch_size=8)
        >>> vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode().shape
        torch.Size([1, 4, 8, 8])
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
    def from_images(cls, images: Tensor, *, latent_channels: int = 32, patch_size: int = 8) -> Self:
        """Fit the principal components of images' patches.

        A latent channel's standard deviation is the square root of its component's, up to a factor
        that brings all of them together to unit scale: visible components weigh more.

        Args:
            images: Images, shape (n, channels, height, width), sides multiples of the patch
                size: uint8, scaled from [0, 255] to [-1, 1], or floating point, such as log-mel
                spectrograms of one channel, unscaled.
            latent_channels: Components to keep.
            patch_size: Pixels along each side of a patch.

        Raises:
            UserError: If the shape or dtype is another.
        """
        is_bytes, is_floats = images.dtype == torch.uint8, images.is_floating_point()
        if images.ndim != 4 or not len(images) or not (is_bytes or is_floats):
            raise UserError(
                "Expected images of shape (n, channels, height, width), uint8 or floating point, "
                f"got {tuple(images.shape)}, {images.dtype}."
            )
        channels, *sides = images.shape[1:]
        if any(side % patch_size for side in sides):
            raise UserError(
                f"Expected sides that are multiples of {patch_size} pixels, got {tuple(sides)}."
            )
        model = cls(channels, channels, latent_channels, patch_size, sample_size=max(sides))
        moments = Moments(channels * patch_size**2, covariance=True)
        for part in images.split(256):
            pixels = part / 127.5 - 1 if is_bytes else part.float()
            rows = F.unfold(pixels, patch_size, stride=patch_size)  # (n, values, patches)
            moments.update(rows.transpose(1, 2).flatten(0, 1))
        # Components are about a channel's mean, which is one for all pixels.
        means = torch.from_numpy(moments.mean).view(channels, -1)
        center = means.mean(1)
        offset = (means - center[:, None]).flatten()
        variances, components = torch.linalg.eigh(
            torch.from_numpy(moments.covariance) + offset.outer(offset)
        )
        center = center.float()
        stds = variances.flip(0)[:latent_channels].clamp(min=1e-8).sqrt().float()
        scale = (stds * stds.mean()).sqrt()[:, None, None, None]
        kept = components.flip(1)[:, :latent_channels].T.float()
        # The sign of a component differs from machine to machine.
        kept *= kept.gather(1, kept.abs().argmax(dim=1, keepdim=True)).sign()
        kept = kept.view(latent_channels, channels, patch_size, patch_size)
        bias = -(kept / scale * center[:, None, None]).sum(dim=(1, 2, 3))
        model.encoder.load_state_dict({"weight": kept / scale, "bias": bias})
        model.decoder.load_state_dict({"weight": kept * scale, "bias": center})
        return model

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Encode images (n, channels, height, width), in [-1, 1], deterministically."""
        posterior = IdentityDistribution(self.encoder(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Decode latents (n, latent_channels, height / patch_size, width / patch_size)."""
        sample = self.decoder(z)
        return DecoderOutput(sample=sample) if return_dict else (sample,)
