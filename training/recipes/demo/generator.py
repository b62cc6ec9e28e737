"""The demo generator: an AudioLDM-shaped UNet, conditioned on CLAP vectors.

Liu et al., "AudioLDM: Text-to-Audio Generation with Latent Diffusion Models", ICML 2023
(https://arxiv.org/abs/2301.12503), at a size that two cores can train.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, SoundBank
from clip2clap.training.recipes.demo.diffusion import ConditionalUNet, diffusion_loss
from clip2clap.training.recipes.demo.features import keep
from clip2clap.training.recipes.demo.loop import Fit, Schedule, fit
from clip2clap.training.recipes.demo.mel import FRAMES, log_mel, mel_filters

PATCH, CHANNELS = 8, 24
# Recordings whose principal components are taken.
AUTOENCODER_ROWS = 1000
BATCH = 16
CROPS = 6
# How often the condition is left out.
UNCONDITIONAL_SHARE = 0.1
SCHEDULE = Schedule(steps=7500, learning_rate=4e-4, warmup=300, ema_decay=0.999)


@dataclass(frozen=True)
class Clips:
    """What the UNet learns from: latents, their recordings' CLAP vectors, their kinds' means."""

    latents: Tensor
    embeds: Tensor
    means: Tensor
    weights: Tensor


def build_autoencoder(bank: SoundBank) -> PatchAutoencoder:
    """Build the autoencoder: (1, 512, 64) log-mel spectrograms to (24, 64, 8) latents and back.

    Args:
        bank: Training recordings, of known kinds or not.
    """
    filters = mel_filters()
    rows = bank.draw(AUTOENCODER_ROWS, torch.Generator().manual_seed(0))
    mels = [log_mel(bank.batch(part, CLIP_SAMPLES), filters) for part in rows.split(16)]
    return PatchAutoencoder.from_pictures(
        torch.cat(mels).unsqueeze(1), latent_channels=CHANNELS, patch_size=PATCH
    )


def build_unet() -> UNet2DConditionModel:
    """Build the UNet over (24, 64, 8) latents."""
    return UNet2DConditionModel(
        sample_size=FRAMES // PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
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


def encode_clips(bank: SoundBank, vae: PatchAutoencoder, path: Path) -> Tensor:
    """Encode crops of the training recordings, or read them where they were kept.

    Args:
        bank: Training recordings of the kinds.
        vae: The autoencoder.
        path: Safetensors file that keeps the latents.

    Returns:
        Latents of unit scale, shape (recordings, crops, channels, 64, 8): the first crop of a
        recording is as it is, the others are cut elsewhere and played faster or slower.
    """
    if path.is_file():
        return load_file(path)["latents"]
    filters = mel_filters()
    generator = torch.Generator().manual_seed(0)
    latents = []
    for row in track(range(len(bank)), description="latents"):
        speeds = 2 ** (0.5 * torch.rand(CROPS, generator=generator) - 0.25)
        speeds[0] = 1
        lengths = (CLIP_SAMPLES * speeds).round().int().tolist()
        crops = [bank.crop(row, length, generator).view(1, 1, -1) for length in lengths]
        waves = [F.interpolate(crop, size=CLIP_SAMPLES, mode="linear")[:, 0] for crop in crops]
        with torch.inference_mode():
            encoded = vae.encode(log_mel(torch.cat(waves), filters).unsqueeze(1))
        latents.append(encoded.latent_dist.mode())
    keep({"latents": torch.stack(latents)}, path)
    return torch.stack(latents)


def gather_clips(
    bank: SoundBank, latents: Tensor, sounds: dict[str, Tensor], means: Tensor
) -> Clips:
    """Put recordings' latents beside their CLAP vectors.

    Args:
        bank: Training recordings of the kinds.
        latents: `encode_clips`.
        sounds: `Recipe.sounds`.
        means: The mean CLAP vector of each kind, shape (kinds, 512).

    Returns:
        The clips; `embeds` has one vector of a recording as it is and one of each altered copy,
        shape (recordings, copies, 512), and `means` the mean of its kind, shape (recordings, 512).
    """
    vectors = [sounds["embeds"][sounds["recording"] == number] for number in bank.numbers]
    return Clips(latents, torch.stack(vectors), means[bank.kinds], bank.weights)


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
        vectors = vectors + (1 - share) * clips.means[rows]
        vectors = vectors + 0.01 * torch.randn(vectors.shape, generator=generator)
        vectors = model.without_some(vectors, UNCONDITIONAL_SHARE, generator)
        return diffusion_loss(model.unet, latents, vectors, generator)

    torch.manual_seed(schedule.seed)
    model = ConditionalUNet(build_unet(), clips.embeds.shape[-1])
    model = model.to(memory_format=torch.channels_last)
    return fit(model, step, schedule, folder, name="generator")


def _pick(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pick one of the second dimension's entries for each row."""
    places = torch.randint(values.shape[1], (len(values),), generator=generator)
    return values[torch.arange(len(values)), places]
