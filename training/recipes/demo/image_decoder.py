"""The demo picture decoder: a diffusion UNet over latents of 64 x 64 pictures.

A CLIP image embedding alone tells it what to paint, as it does Kandinsky 2.2's decoder
(https://arxiv.org/abs/2310.03502). It first learns to denoise (`train_painter`), then to see in few
steps what the eye takes for what it was told to paint (`train_finisher`).
"""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
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

from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo.data import Photo
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, diffusion_loss, guess_end
from clip2clap.training.recipes.demo.features import keep
from clip2clap.training.recipes.demo.loop import (
    Fit,
    Schedule,
    fit,
    mixed_precision,
    training_device,
)
from clip2clap.training.recipes.demo.perceptual import (
    FeatureDiscriminator,
    PerceptualFeatures,
    contest_of_maps,
)

SIZE = 64
BATCH = 64
UNCONDITIONAL_SHARE = 0.1
STEPS, GUIDANCE_SCALE = 8, 4.0
PATCH, CHANNELS = 8, 32
SCHEDULE = Schedule(steps=3000, learning_rate=8e-4, warmup=300, ema_decay=0.999)
FINISHER_BATCH = 24
# Of unequal pull: the vector's on the latents is ten times the pixels', the eye's thrice.
EYE_SHARE, FIT_SHARE, ALIKE_SHARE, FINISHER_CRITIC_SHARE = 0.3, 0.3, 0.5, 1.0
FINISHER_SCHEDULE = Schedule(
    steps=5450, learning_rate=3e-4, weight_decay=0.0, betas=(0.5, 0.99), ema_decay=0.998
)


@dataclass(frozen=True)
class Pictures:
    """What the picture decoder learns from.

    Latents, the CLIP vectors of their photographs, the means of these over a photograph's kind (the
    vector itself where it is of no kind), and how often to draw each.
    """

    latents: Tensor
    embeds: Tensor
    means: Tensor
    weights: Tensor


def load_pixels(photos: Sequence[Photo], path: Path) -> Tensor:
    """Decode photographs, or read them where they were kept.

    Args:
        photos: The photographs; what is not square is cut to its middle.
        path: Safetensors file that keeps the pixels.

    Returns:
        Shape (n, 3, 64, 64), uint8.
    """
    if not path.is_file():
        images = (photo.image() for photo in track(photos, description="pixels"))
        keep({"pixels": to_pixels(images)}, path)
    return load_file(path)["pixels"]


def to_pixels(images: Iterable[Image.Image]) -> Tensor:
    """Cut images to their middles, shape (n, 3, 64, 64), uint8."""
    rows = [
        np.asarray(ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.BICUBIC)) for image in images
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).contiguous()


def encode_pictures(vae: PatchAutoencoder, pixels: Tensor) -> Tensor:
    """Encode pictures (n, 3, 64, 64), uint8, as latents of unit scale, (n, 32, 8, 8)."""
    with torch.inference_mode():
        parts = [vae.encode(part.float() / 127.5 - 1) for part in pixels.split(256)]
    return torch.cat([part.latent_dist.mode() for part in parts])


def build_unet() -> UNet2DConditionModel:
    """Build the UNet over (32, 8, 8) latents."""
    return UNet2DConditionModel(
        sample_size=SIZE // PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(96, 160),
        layers_per_block=1,
        # Attention over 8 x 8 places would take half of all time.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(96, 160),  # pyright: ignore[reportArgumentType]
        attention_head_dim=(6, 10),  # pyright: ignore[reportArgumentType]
        norm_num_groups=16,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
        class_embeddings_concat=True,
    )


def train_painter(pictures: Pictures, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the UNet.

    Args:
        pictures: What to learn from.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `ConditionalUNet`, with what it took.
    """

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, ConditionalUNet)
        rows, vectors = _draw_told(pictures, BATCH, generator)
        vectors = model.without_some(vectors, UNCONDITIONAL_SHARE, generator)
        return diffusion_loss(model.unet, pictures.latents[rows], vectors, generator)

    torch.manual_seed(schedule.seed)
    model = ConditionalUNet(build_unet(), pictures.embeds.shape[-1])
    model = model.to(memory_format=torch.channels_last)
    return fit(model, step, schedule, folder, name="painter")


class Finisher(nn.Module):
    """The UNet beside its critic."""

    def __init__(self, painter: ConditionalUNet, critic: FeatureDiscriminator):
        super().__init__()
        self.painter = painter
        self.critic = critic


def train_finisher(
    pictures: Pictures,
    pixels: Tensor,
    painter: ConditionalUNet,
    vae: PatchAutoencoder,
    eye: PerceptualFeatures,
    tower: nn.Module,
    folder: Path,
    schedule: Schedule = FINISHER_SCHEDULE,
) -> Fit:
    """Teach the UNet to see at once what it would only come to in many steps.

    A denoiser's error is the least where it paints the mean of all that it may become, which is a
    blur until the last steps. Here its guess at the end, from any amount of noise, is decoded, and
    the eye compares it with the photograph and its vector with the one that was told; a critic that
    looks through the eye judges the rest, as in adversarial diffusion distillation (Sauer et al.
    2023, https://arxiv.org/abs/2311.17042).

    Args:
        pictures: What to learn from.
        pixels: The photographs of `pictures`, shape (n, 3, 64, 64), uint8.
        painter: The trained UNet; changed.
        vae: The autoencoder of pictures.
        eye: What pictures are compared by, beside their pixels.
        tower: Maps the eye's features to CLIP's space.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `Finisher`, with what it took.
    """
    device = training_device()

    def lent(part: nn.Module) -> Any:
        # Others use it too, on the processor.
        return deepcopy(part).requires_grad_(False).to(device)

    tower, vae, eye = lent(tower), lent(vae), lent(eye)

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Finisher)
        rows, vectors = _draw_told(pictures, FINISHER_BATCH, generator)
        vectors = F.normalize(vectors, dim=-1)
        told = model.painter.without_some(vectors, UNCONDITIONAL_SHARE, generator)
        latents = pictures.latents[rows]
        guess = guess_end(model.painter.unet, latents, told, generator)
        drawn = (guess, latents, told, vectors, _draw(pixels, rows))
        guess, latents, told, vectors, real = (tensor.to(device) for tensor in drawn)
        with mixed_precision():
            made = vae.decode(guess).sample.float()
            with torch.no_grad():
                wanted = eye.layers(real)
            maps, features = eye(made)
        seen = contest_of_maps(model.critic, maps, wanted, told, FINISHER_CRITIC_SHARE)
        # Where nothing was told there is nothing to fit.
        off = (told == vectors).all(dim=-1) * (
            1 - (F.normalize(tower(features), dim=-1) * vectors).sum(dim=-1)
        )
        alike = F.mse_loss(guess, latents) + _pixels_apart(made, real)
        return EYE_SHARE * seen + FIT_SHARE * off.mean() + ALIKE_SHARE * alike

    torch.manual_seed(schedule.seed)
    critic = FeatureDiscriminator(eye.widths, pictures.embeds.shape[-1])
    model = Finisher(painter, critic).to(memory_format=torch.channels_last)
    return fit(model, step, schedule, folder, name="finisher")


def _draw_told(pictures: Pictures, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw rows and the vectors that are told of them, shape (count, d), not of unit norm."""
    rows = torch.multinomial(pictures.weights, count, replacement=True, generator=generator)
    # A translated recording lies near the mean of what it may show, not on one photograph.
    share = torch.rand(count, 1, generator=generator)
    vectors = share * pictures.embeds[rows] + (1 - share) * pictures.means[rows]
    return rows, vectors + 0.02 * torch.randn(vectors.shape, generator=generator)


def _draw(pixels: Tensor, rows: Tensor) -> Tensor:
    drawn = pixels[rows].float() / 127.5 - 1
    return drawn.contiguous(memory_format=torch.channels_last)


def _pixels_apart(made: Tensor, real: Tensor) -> Tensor:
    """Compare pixels by lightness and colour, and above all their local means."""
    # Photographs differ less in colour than in lightness, which would be all that is learnt first.
    scale = made.new_tensor([[1, 1, 1], [3, -3, 0], [1.7, 1.7, -3.4]]) / 3**0.5
    apart = torch.einsum("oc,nchw->nohw", scale, made - real)
    return apart.abs().mean() + 2 * F.avg_pool2d(apart, 4).abs().mean()
