"""The demo picture decoder: a diffusion UNet over latents of 64 x 64 pictures.

A CLIP image embedding alone tells it what to paint, as it does Kandinsky 2.2's decoder
(https://arxiv.org/abs/2310.03502).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.schedulers import DPMSolverMultistepScheduler
from PIL import Image, ImageOps
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.demo.critic import PatchCritic, contest
from clip2clap.training.demo.data import Photo
from clip2clap.training.demo.diffusion import ConditionalUNet, diffusion_loss
from clip2clap.training.demo.features import keep
from clip2clap.training.demo.loop import Fit, Schedule, fit, mixed_precision

SIZE = 64
VAE_BATCH, BATCH = 16, 32
KL_WEIGHT = 1e-6
CRITIC_SHARE = 0.5
UNCONDITIONAL_SHARE = 0.1
STEPS, GUIDANCE_SCALE = 20, 3.0
_LATENT_SHAPE = (8, SIZE // 4, SIZE // 4)
VAE_SCHEDULE = Schedule(
    steps=1800, learning_rate=8e-4, weight_decay=0.0, betas=(0.5, 0.99), ema_decay=0.995
)
SCHEDULE = Schedule(steps=2200, learning_rate=8e-4, warmup=300, ema_decay=0.999)


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


def build_vae() -> AutoencoderKL:
    """Build the autoencoder: (3, 64, 64) pictures to (8, 16, 16) latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        block_out_channels=(16, 48, 96),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=16,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


class VaeAndCritic(nn.Module):
    """The autoencoder beside its critic."""

    def __init__(self):
        super().__init__()
        self.vae = build_vae()
        self.critic = PatchCritic(3)


def train_picture_vae(pixels: Tensor, folder: Path, schedule: Schedule = VAE_SCHEDULE) -> Fit:
    """Train the autoencoder of pictures and set its `scaling_factor`.

    Args:
        pixels: Training photographs, shape (n, 3, 64, 64), uint8.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        The trained `AutoencoderKL`, with what it took.
    """

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, VaeAndCritic)
        real = _draw(pixels, torch.randint(len(pixels), (VAE_BATCH,), generator=generator))
        with mixed_precision():
            encoded: Any = model.vae.encode(real)
            posterior = encoded.latent_dist
            decoded: Any = model.vae.decode(posterior.sample(generator))
            loss = contest(model.critic, decoded.sample.float(), real, _error, CRITIC_SHARE)
        return loss + KL_WEIGHT * posterior.kl().mean()

    torch.manual_seed(schedule.seed)
    result = fit(VaeAndCritic(), step, schedule, folder, name="picture autoencoder")
    assert isinstance(result.model, VaeAndCritic)
    vae = result.model.vae
    rows = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:256]
    vae.register_to_config(scaling_factor=1 / _encode(vae, pixels[rows]).std().item())
    return Fit(vae, result.seconds, result.loss)


def encode_pictures(vae: AutoencoderKL, pixels: Tensor, path: Path) -> Tensor:
    """Encode photographs, or read their latents where they were kept.

    Args:
        vae: The trained autoencoder.
        pixels: Shape (n, 3, 64, 64), uint8.
        path: Safetensors file that keeps the latents.

    Returns:
        Latents of unit scale, shape (n, 8, 16, 16).
    """
    if not path.is_file():
        parts = [_encode(vae, part) for part in track(pixels.split(128), description="latents")]
        keep({"latents": torch.cat(parts) * vae.config["scaling_factor"]}, path)
    return load_file(path)["latents"]


def build_unet() -> UNet2DConditionModel:
    """Build the UNet over (8, 16, 16) latents."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(64, 96, 128),  # pyright: ignore[reportArgumentType]
        attention_head_dim=(4, 6, 8),  # pyright: ignore[reportArgumentType]
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
        rows = torch.multinomial(pictures.weights, BATCH, replacement=True, generator=generator)
        # A translated recording lies near the mean of what it may show, not on one photograph.
        share = torch.rand(BATCH, 1, generator=generator)
        vectors = share * pictures.embeds[rows] + (1 - share) * pictures.means[rows]
        vectors = vectors + 0.02 * torch.randn(vectors.shape, generator=generator)
        vectors = model.without_some(vectors, UNCONDITIONAL_SHARE, generator)
        return diffusion_loss(model.unet, pictures.latents[rows], vectors, generator)

    torch.manual_seed(schedule.seed)
    model = ConditionalUNet(build_unet(), pictures.embeds.shape[-1])
    return fit(model, step, schedule, folder, name="painter")


def paint(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    scheduler: DPMSolverMultistepScheduler,
    negative: Tensor,
    embeds: Tensor,
    *,
    steps: int = STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    seed: int = 0,
) -> Tensor:
    """Paint a picture for each vector.

    Args:
        unet: The trained UNet.
        vae: The autoencoder of pictures.
        scheduler: Of few steps.
        negative: What to guide away from, shape (512,).
        embeds: CLIP image vectors, shape (n, 512), unit norm.
        steps: Denoising steps.
        guidance_scale: Strength of classifier-free guidance.
        seed: Of the noise.

    Returns:
        Pictures, shape (n, 3, 64, 64), uint8.
    """
    model: Any = unet
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for vectors in embeds.split(BATCH):
        scheduler.set_timesteps(steps)
        latents = torch.randn((len(vectors), *_LATENT_SHAPE), generator=generator)
        conditions = torch.cat([vectors, negative.expand_as(vectors)])
        for timestep in scheduler.timesteps:
            with torch.inference_mode(), mixed_precision():
                both = model(
                    torch.cat([latents, latents]),
                    timestep,
                    encoder_hidden_states=None,
                    class_labels=conditions,
                ).sample.float()
            wanted, anything = both.chunk(2)
            guided = anything + guidance_scale * (wanted - anything)
            latents = scheduler.step(guided, timestep, latents, return_dict=False)[0]
        with torch.inference_mode():
            decoded: Any = vae.decode(latents / vae.config["scaling_factor"])
        pictures.append(((decoded.sample + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(pictures)


def _draw(pixels: Tensor, rows: Tensor) -> Tensor:
    return pixels[rows].float() / 127.5 - 1


def _encode(vae: AutoencoderKL, pixels: Tensor) -> Tensor:
    with torch.inference_mode(), mixed_precision():
        encoded: Any = vae.encode(pixels.float() / 127.5 - 1)
    return encoded.latent_dist.mean.float()


def _error(made: Tensor, real: Tensor) -> Tensor:
    return F.l1_loss(made, real) + F.l1_loss(F.avg_pool2d(made, 4), F.avg_pool2d(real, 4))
