"""Latent diffusion that the demo generator and the demo image decoder share.

Both are UNets conditioned on one embedding, trained on velocities, with a learned negative
embedding for classifier-free guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.recipes.demo.loop import Stage, compute

# Share of training examples without their condition, for classifier-free guidance.
CONDITION_DROPOUT = 0.1

DrawBatch = Callable[[torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class ConditionedLatents:
    """Training latents with their conditions."""

    latents: Tensor
    """Latents of unit scale, one or several per row."""
    embeds: Tensor
    """Embeddings of the encoded images or audio, one or several per row."""
    means: Tensor
    """Mean embedding of the row's class, shape (n, d)."""
    weights: Tensor
    """Sampling weights, shape (n,)."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw row numbers by `weights`, with replacement, shape (count,)."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)


class ConditionalUNet(nn.Module):
    """UNet with a learned negative embedding.

    The layer that projects the condition starts with weights scaled by the square root of the
    dimension: values of unit-norm vectors are so small that the UNet would ignore them for
    thousands of steps.
    """

    def __init__(self, unet: UNet2DConditionModel, embed_dim: int):
        super().__init__()
        self.unet = unet
        projection: Any = unet.class_embedding
        with torch.no_grad():
            projection.weight.mul_(embed_dim**0.5)
        self.negative_embeds = nn.Parameter(F.normalize(torch.randn(embed_dim), dim=0))

    def drop_condition(self, embeds: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Normalize embeddings (n, d) and replace a share of them by the negative embedding."""
        dropped = torch.rand(len(embeds), 1, generator=generator) < share
        return torch.where(dropped, self.negative_embeds.cpu(), F.normalize(embeds, dim=-1))


def build_unet(
    sample_size: int,
    latent_channels: int,
    block_out_channels: tuple[int, ...],
    attention_head_dim: int | tuple[int, ...] = 8,
) -> UNet2DConditionModel:
    """Build an AudioLDM-shaped UNet, conditioned on 512-dimensional embeddings.

    All levels but the first have attention.
    """
    attention = len(block_out_channels) - 1
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=block_out_channels,
        layers_per_block=1,
        # Attention at full resolution would be half of the run time.
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attention),
        up_block_types=(*["CrossAttnUpBlock2D"] * attention, "UpBlock2D"),
        cross_attention_dim=block_out_channels,  # pyright: ignore[reportArgumentType]
        attention_head_dim=attention_head_dim,  # pyright: ignore[reportArgumentType]
        norm_num_groups=16,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
        class_embeddings_concat=True,
    )


@cache
def build_scheduler() -> DDPMScheduler:
    """Build AudioLDM's noise schedule, with velocity prediction."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def train_unet(
    build: Callable[[], ConditionalUNet], draw_batch: DrawBatch, stage: Stage
) -> ConditionalUNet:
    """Train a `ConditionalUNet` to denoise.

    `build` builds it, `draw_batch` draws latents (n, channels, height, width) and their conditions
    (n, d).
    """

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, ConditionalUNet)
        latents, embeds = draw_batch(generator)
        embeds = model.drop_condition(embeds, CONDITION_DROPOUT, generator)
        return diffusion_loss(model.unet, latents, embeds, generator)

    return stage.train(lambda: build().to(memory_format=torch.channels_last), batch_loss)


def diffusion_loss(
    unet: UNet2DConditionModel, latents: Tensor, embeds: Tensor, generator: torch.Generator
) -> Tensor:
    """Compute the squared error of predicted velocities.

    Velocities: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512. All noise levels weigh
    alike: with min-SNR weights (https://arxiv.org/abs/2303.09556) the highest, which decide the
    content, would hardly be trained. Latents are clean, of unit scale, (n, channels, height,
    width); their conditions (n, d).
    """
    scheduler: Any = build_scheduler()
    noise = torch.randn(latents.shape, generator=generator)
    levels = scheduler.config["num_train_timesteps"]
    timesteps = torch.randint(levels, (len(latents),), generator=generator)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    _, predicted = _predict_velocity(unet, latents, noise, timesteps, embeds)
    return F.mse_loss(predicted, velocity)


def predict_clean(
    unet: UNet2DConditionModel, latents: Tensor, embeds: Tensor, generator: torch.Generator
) -> Tensor:
    """Add noise to latents and let the UNet predict the clean ones in one step.

    High noise levels, which decide the content, are sampled more often. Shapes are those of
    `diffusion_loss`.
    """
    scheduler: Any = build_scheduler()
    level = 1 - torch.rand(len(latents), generator=generator).square()
    timesteps = (level * (scheduler.config["num_train_timesteps"] - 1)).round().long()
    noise = torch.randn(latents.shape, generator=generator)
    noisy, velocity = _predict_velocity(unet, latents, noise, timesteps, embeds)
    signal = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    return signal * noisy - (1 - signal.square()).sqrt() * velocity


def _predict_velocity(
    unet: UNet2DConditionModel, latents: Tensor, noise: Tensor, timesteps: Tensor, embeds: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the noisy latents and the velocities that the UNet predicts from them."""
    scheduler: Any = build_scheduler()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    condition = {"encoder_hidden_states": None, "class_labels": embeds}
    (predicted,) = compute(unet, noisy, timesteps, **condition, return_dict=False)
    return noisy, predicted
