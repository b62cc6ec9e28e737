"""What the sound generator and the picture decoder share: noise, velocities, an "anything"."""

from functools import cache
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.recipes.demo.loop import compute


class ConditionalUNet(nn.Module):
    """The UNet, yet to be trained, and the learned vector that stands for "anything".

    The layer that reads a condition starts larger by the square root of the dimension: the values
    of a vector of unit norm are tiny, and for thousands of steps the UNet would hardly listen.
    """

    def __init__(self, unet: UNet2DConditionModel, embed_dim: int):
        super().__init__()
        self.unet = unet
        listening: Any = unet.class_embedding
        with torch.no_grad():
            listening.weight.mul_(embed_dim**0.5)
        self.negative_embeds = nn.Parameter(F.normalize(torch.randn(embed_dim), dim=0))

    def without_some(self, vectors: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Normalise vectors (n, d) and leave a share of them out, so that guidance has a way."""
        left_out = torch.rand(len(vectors), 1, generator=generator) < share
        return torch.where(left_out, self.negative_embeds.cpu(), F.normalize(vectors, dim=-1))


@cache
def build_scheduler() -> DDPMScheduler:
    """Build AudioLDM's noise schedule, with velocities as the target."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def diffusion_loss(
    unet: UNet2DConditionModel, latents: Tensor, vectors: Tensor, generator: torch.Generator
) -> Tensor:
    """Compute the error of predicted velocities, with min-SNR weights.

    Velocities: Salimans and Ho 2022, https://arxiv.org/abs/2202.00512. Weights: Hang et al. 2023,
    https://arxiv.org/abs/2303.09556.

    Args:
        unet: The UNet.
        latents: Of unit scale, shape (n, channels, height, width).
        vectors: Its conditions, shape (n, d).
        generator: Where noise and times are drawn.

    Returns:
        A scalar.
    """
    schedule: Any = build_scheduler()
    noise = torch.randn(latents.shape, generator=generator)
    levels = schedule.config["num_train_timesteps"]
    timesteps = torch.randint(levels, (len(latents),), generator=generator)
    velocity = schedule.get_velocity(latents, noise, timesteps)
    _, predicted = _predict(unet, latents, noise, timesteps, vectors)
    error = (predicted - velocity).square().mean(dim=(1, 2, 3))
    ratio = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[timesteps]
    return (error * ratio.clamp(max=5.0) / (ratio + 1)).mean() * 2


def guess_end(
    unet: UNet2DConditionModel, latents: Tensor, vectors: Tensor, generator: torch.Generator
) -> Tensor:
    """Let the UNet guess at latents under noise, mostly much of it.

    Where little else is left it is settled what is made.

    Args:
        unet: The UNet.
        latents: Of unit scale, shape (n, channels, height, width).
        vectors: Its conditions, shape (n, d).
        generator: Where noise and times are drawn.

    Returns:
        The guesses, shaped as `latents`.
    """
    schedule: Any = build_scheduler()
    share = 1 - torch.rand(len(latents), generator=generator).square()
    timesteps = (share * (schedule.config["num_train_timesteps"] - 1)).round().long()
    noise = torch.randn(latents.shape, generator=generator)
    noisy, velocity = _predict(unet, latents, noise, timesteps, vectors)
    signal = schedule.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
    return signal * noisy - (1 - signal.square()).sqrt() * velocity


def _predict(
    unet: UNet2DConditionModel, latents: Tensor, noise: Tensor, timesteps: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """Put latents under noise; return them and the velocities that the UNet predicts of them."""
    schedule: Any = build_scheduler()
    noisy = schedule.add_noise(latents, noise, timesteps)
    told = {"encoder_hidden_states": None, "class_labels": vectors}
    (predicted,) = compute(unet, noisy, timesteps, **told, return_dict=False)
    return noisy, predicted
