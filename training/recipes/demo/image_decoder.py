"""Demo image decoder: a diffusion UNet over latents of 64 x 64 images.

It is conditioned on a CLIP image embedding alone, like Kandinsky 2.2's decoder
(https://arxiv.org/abs/2310.03502). `train_decoder` trains it to denoise; `tune_decoder` then
fine-tunes its one-step predictions with perceptual, adversarial and CLIP losses.
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageOps
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.files import save_tensors
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo import diffusion
from clip2clap.training.recipes.demo.data import DemoImage
from clip2clap.training.recipes.demo.diffusion import (
    CONDITION_DROPOUT,
    ConditionalUNet,
    ConditionedLatents,
    predict_clean,
    train_unet,
)
from clip2clap.training.recipes.demo.loop import Stage, mixed_precision, training_device
from clip2clap.training.recipes.demo.perceptual import (
    FeatureDiscriminator,
    PerceptualFeatures,
    adversarial_loss,
)

SIZE = 64
BATCH = 64
STEPS, GUIDANCE_SCALE = 8, 4.0
# Images are generated at SIZE, enlarged and refined under guidance by the demo CLIP.
IMAGE_SIZE, REFINE_STRENGTH, CLIP_GUIDANCE_SCALE = 128, 0.6, 3.0
PATCH, CHANNELS = 8, 32
TUNING_BATCH = 24
# The gradients of the terms differ in size: on the latents, the CLIP term's is ten times the
# reconstruction's, the perceptual term's three times.
PERCEPTUAL_WEIGHT, CLIP_WEIGHT, RECONSTRUCTION_WEIGHT, DISCRIMINATOR_WEIGHT = 0.3, 0.3, 0.5, 1.0


def load_pixels(images: Sequence[DemoImage], path: Path) -> Tensor:
    """Decode images to pixels (n, 3, 64, 64), or read these from the file of an earlier run."""
    if not path.is_file():
        loaded = (image.load() for image in track(images, description="pixels"))
        save_tensors({"pixels": to_pixels(loaded)}, path)
    return load_file(path)["pixels"]


def to_pixels(images: Iterable[Image.Image]) -> Tensor:
    """Crop images to their centers, shape (n, 3, 64, 64), uint8."""
    rows = [
        np.asarray(ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)) for image in images
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def encode_images(vae: PatchAutoencoder, pixels: Tensor) -> Tensor:
    """Encode images (n, 3, 64, 64), uint8, as latents of unit scale, (n, 32, 8, 8)."""
    parts = [vae.encode(part.float() / 127.5 - 1) for part in pixels.split(256)]
    return torch.cat([part.latent_dist.mode() for part in parts])


def build_unet() -> UNet2DConditionModel:
    """Build the UNet over (32, 8, 8) latents."""
    return diffusion.build_unet(SIZE // PATCH, CHANNELS, (96, 160), attention_head_dim=(6, 10))


def train_decoder(images: ConditionedLatents, stage: Stage) -> ConditionalUNet:
    """Train a `ConditionalUNet` to denoise latents of images."""

    def draw_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, embeds = _draw_conditions(images, BATCH, generator)
        return images.latents[rows], embeds

    embed_dim = images.embeds.shape[-1]
    return train_unet(lambda: ConditionalUNet(build_unet(), embed_dim), draw_batch, stage)


class TunedDecoder(nn.Module):
    """UNet of the decoder and the feature discriminator that is trained with it."""

    def __init__(self, unet: ConditionalUNet, discriminator: FeatureDiscriminator):
        super().__init__()
        self.unet = unet
        self.discriminator = discriminator


class TuningLoss:
    """Loss of one-step predictions: perceptual, adversarial, CLIP and reconstruction terms.

    The mean squared error alone is least where the UNet predicts the mean of all possible images,
    which is blurred at high noise levels. Here its prediction is decoded, and compared with the
    real image by perceptual features and a discriminator on them, as in adversarial diffusion
    distillation (Sauer et al. 2023, https://arxiv.org/abs/2311.17042), and with its condition by
    CLIP embedding.

    Args:
        images: Latents with their CLIP embeddings.
        pixels: The images of the latents, shape (n, 3, 64, 64), uint8.
        vae: The image autoencoder.
        perceptual: Perceptual features.
        projection: Maps the top perceptual features to CLIP's space.
    """

    def __init__(
        self,
        images: ConditionedLatents,
        pixels: Tensor,
        vae: PatchAutoencoder,
        perceptual: PerceptualFeatures,
        projection: nn.Module,
    ):
        self.images, self.pixels = images, pixels
        self.vae, self.perceptual = self._frozen(vae), self._frozen(perceptual)
        self.projection = self._frozen(projection)

    def __call__(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Compute the loss of one batch."""
        assert isinstance(model, TunedDecoder)
        rows, embeds = _draw_conditions(self.images, TUNING_BATCH, generator)
        conditions = model.unet.drop_condition(embeds, CONDITION_DROPOUT, generator)
        # Equal to the conditions to the last bit, which a second normalization would change.
        embeds = F.normalize(embeds, dim=-1)
        latents = self.images.latents[rows]
        predicted = predict_clean(model.unet.unet, latents, conditions, generator)
        real = self.pixels[rows].float() / 127.5 - 1
        real = real.contiguous(memory_format=torch.channels_last)
        batch = (predicted, latents, conditions, embeds, real)
        predicted, latents, conditions, embeds, real = (x.to(training_device()) for x in batch)
        with mixed_precision():
            decoded = self.vae.decode(predicted).sample.float()
            with torch.no_grad():
                real_maps = self.perceptual.maps(real)
            maps, features = self.perceptual(decoded)
        perceptual = adversarial_loss(
            model.discriminator, maps, real_maps, conditions, DISCRIMINATOR_WEIGHT
        )
        cosine = (F.normalize(self.projection(features), dim=-1) * embeds).sum(dim=-1)
        # Unconditional predictions need not match any embedding.
        clip = ((conditions == embeds).all(dim=-1) * (1 - cosine)).mean()
        reconstruction = F.mse_loss(predicted, latents) + pixel_distance(decoded, real)
        return (
            PERCEPTUAL_WEIGHT * perceptual
            + CLIP_WEIGHT * clip
            + RECONSTRUCTION_WEIGHT * reconstruction
        )

    def _frozen(self, model: nn.Module) -> Any:
        # A copy: other stages use the model on the CPU.
        return deepcopy(model).requires_grad_(False).to(training_device())


def tune_decoder(loss: TuningLoss, unet: ConditionalUNet, stage: Stage) -> TunedDecoder:
    """Fine-tune the decoder's UNet in place."""

    def build() -> nn.Module:
        discriminator = FeatureDiscriminator(loss.perceptual.widths, loss.images.embeds.shape[-1])
        return TunedDecoder(unet, discriminator).to(memory_format=torch.channels_last)

    return stage.train(build, loss)


def pixel_distance(images: Tensor, real: Tensor) -> Tensor:
    """Compute the distance of images (n, 3, height, width) in lightness, color and local means."""
    # Images differ less in color than in lightness, which otherwise is all that is learned first.
    axes = images.new_tensor([[1, 1, 1], [3, -3, 0], [1.7, 1.7, -3.4]]) / 3**0.5
    difference = torch.einsum("oc,nchw->nohw", axes, images - real)
    return difference.abs().mean() + 2 * F.avg_pool2d(difference, 4).abs().mean()


def _draw_conditions(
    images: ConditionedLatents, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw rows (count,) and their conditions (count, d), not of unit norm."""
    rows = images.draw(count, generator)
    # A translated audio embedding is near its class mean, not at a single image.
    mix = torch.rand(count, 1, generator=generator)
    embeds = mix * images.embeds[rows] + (1 - mix) * images.means[rows]
    return rows, embeds + 0.02 * torch.randn(embeds.shape, generator=generator)
