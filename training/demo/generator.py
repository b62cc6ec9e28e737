"""The demo generator: an AudioLDM-shaped UNet, conditioned on CLAP vectors.

Liu et al., "AudioLDM: Text-to-Audio Generation with Latent Diffusion Models", ICML 2023
(https://arxiv.org/abs/2301.12503), at a size that two cores can train.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.demo.features import SPLITS, keep
from clip2clap.training.demo.loop import Fit, Schedule, fit
from clip2clap.training.demo.mel import log_mel, mel_filters
from clip2clap.training.demo.sounds import CLIP_SAMPLES, SoundBank

BATCH = 16
CROPS = 2
# How often the condition is left out, so that guidance has something to lead away from.
UNCONDITIONAL_SHARE = 0.1
SCHEDULE = Schedule(steps=3800, learning_rate=4e-4, warmup=300, ema_decay=0.998)


class ConditionalUNet(nn.Module):
    """The UNet and the learned vector that stands for "anything"."""

    def __init__(self, unet: UNet2DConditionModel, embed_dim: int):
        super().__init__()
        self.unet = unet
        self.negative_embeds = nn.Parameter(F.normalize(torch.randn(embed_dim), dim=0))


@dataclass(frozen=True)
class Clips:
    """What the UNet learns from: latents, the CLAP vectors of their recordings, and their kinds."""

    latents: Tensor
    embeds: Tensor
    kinds: Tensor
    weights: Tensor


def build_unet(latent_channels: int = 16) -> UNet2DConditionModel:
    """Build the UNet over (16, 64, 8) latents."""
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=(96, 128, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(96, 128, 192),  # pyright: ignore[reportArgumentType]
        norm_num_groups=16,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=512,
        class_embeddings_concat=True,
    )


def build_scheduler() -> DDPMScheduler:
    """Build AudioLDM's noise schedule, with velocities as the target."""
    return DDPMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        prediction_type="v_prediction",
        clip_sample=False,
    )


def encode_clips(
    bank: SoundBank,
    vae: AutoencoderKL,
    sounds: dict[str, Tensor],
    embeds: Tensor,
    path: Path,
) -> Clips:
    """Encode crops of the training recordings, or read them where they were kept.

    Args:
        bank: Training recordings of the kinds.
        vae: The trained autoencoder.
        sounds: `features.sound_features`.
        embeds: CLAP vectors of the rows of `sounds`, shape (n, 512), unit norm.
        path: Safetensors file that keeps the latents.

    Returns:
        The clips; `embeds` has one vector of a recording as it is and one of each altered copy,
        shape (recordings, copies, 512).
    """
    if not path.is_file():
        filters = mel_filters()
        generator = torch.Generator().manual_seed(0)
        latents = []
        for row in track(range(len(bank)), description="latents"):
            waves = torch.stack([bank.crop(row, CLIP_SAMPLES, generator) for _ in range(CROPS)])
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                encoded: Any = vae.encode(log_mel(waves, filters).unsqueeze(1))
            latents.append(encoded.latent_dist.mean.float() * vae.config["scaling_factor"])
        keep({"latents": torch.stack(latents)}, path)
    train = SPLITS.index("train")
    rows = [
        torch.where((sounds["recording"] == number) & (sounds["split"] == train))[0]
        for number in bank.numbers
    ]
    vectors = torch.stack([embeds[row] for row in rows])
    return Clips(load_file(path)["latents"], vectors, bank.kinds, bank.weights)


def train_generator(clips: Clips, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the UNet.

    The condition is a recording's CLAP vector drawn towards the mean of its kind by a random share:
    a translated photograph lies near that mean, a real recording away from it.

    Args:
        clips: What `encode_clips` returned.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `ConditionalUNet`, with what it took.
    """
    noise_schedule: Any = build_scheduler()
    levels = noise_schedule.config["num_train_timesteps"]
    signal_to_noise = noise_schedule.alphas_cumprod / (1 - noise_schedule.alphas_cumprod)
    means = torch.stack(
        [
            F.normalize(clips.embeds[clips.kinds == kind].flatten(0, 1).mean(0), dim=0)
            if (clips.kinds == kind).any()
            else torch.zeros(clips.embeds.shape[-1])
            for kind in range(int(clips.kinds.max()) + 1)
        ]
    )

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, ConditionalUNet)
        rows = torch.multinomial(clips.weights, BATCH, replacement=True, generator=generator)
        latents = _pick(clips.latents[rows], generator)
        # Recordings are repeated to the clip's length, so any turn of one is as good as another.
        turns = torch.randint(latents.shape[2], (BATCH,), generator=generator).tolist()
        latents = torch.stack(
            [x.roll(turn, dims=1) for x, turn in zip(latents, turns, strict=True)]
        )
        share = torch.rand(BATCH, 1, generator=generator)
        vectors = share * _pick(clips.embeds[rows], generator)
        vectors = vectors + (1 - share) * means[clips.kinds[rows]]
        vectors = vectors + 0.01 * torch.randn(vectors.shape, generator=generator)
        left_out = torch.rand(BATCH, 1, generator=generator) < UNCONDITIONAL_SHARE
        vectors = torch.where(left_out, model.negative_embeds, F.normalize(vectors, dim=-1))
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(levels, (BATCH,), generator=generator)
        noisy = noise_schedule.add_noise(latents, noise, timesteps)
        velocity = noise_schedule.get_velocity(latents, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = model.unet(
                noisy, timesteps, encoder_hidden_states=None, class_labels=vectors
            ).sample
        error = (predicted.float() - velocity).square().mean(dim=(1, 2, 3))
        # Min-SNR weighting for velocities (https://arxiv.org/abs/2303.09556).
        ratio = signal_to_noise[timesteps]
        return (error * ratio.clamp(max=5.0) / (ratio + 1)).mean() * 2

    torch.manual_seed(schedule.seed)
    model = ConditionalUNet(build_unet(clips.latents.shape[2]), clips.embeds.shape[-1])
    return fit(model, step, schedule, folder, name="generator")


def _pick(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pick one of the second dimension's entries for each row."""
    places = torch.randint(values.shape[1], (len(values),), generator=generator)
    return values[torch.arange(len(values)), places]
