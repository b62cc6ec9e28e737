"""Demo generator: an AudioLDM-shaped UNet conditioned on CLAP embeddings.

Liu et al., "AudioLDM: Text-to-Audio Generation with Latent Diffusion Models", ICML 2023
(https://arxiv.org/abs/2301.12503), at a size that two cores can train.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.files import save_tensors
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo import diffusion
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, FRAMES, AudioBank, log_mel
from clip2clap.training.recipes.demo.diffusion import (
    ConditionalUNet,
    ConditionedLatents,
    train_unet,
)
from clip2clap.training.recipes.demo.loop import Stage
from clip2clap.training.recipes.demo.spaces import class_weights

PATCH, CHANNELS = 8, 24
# Waveforms whose principal components make the autoencoder.
AUTOENCODER_ROWS = 1000
BATCH = 16
CROPS = 6
# Translated images for each row of audio that the generator is tuned on.
IMAGES = 5
# Classes that are drawn more often in tuning: those that were recognized least on validation.
HARD_CLASSES = {"sea": 3.0, "wind": 3.0, "cow": 3.0, "airplane": 2.5}


def build_autoencoder(bank: AudioBank) -> PatchAutoencoder:
    """Build the autoencoder: (1, 512, 64) log-mel spectrograms to (24, 64, 8) latents and back."""
    rows = bank.draw(AUTOENCODER_ROWS, torch.Generator().manual_seed(0))
    mels = [log_mel(bank.batch(part, CLIP_SAMPLES)) for part in rows.split(16)]
    return PatchAutoencoder.from_images(
        torch.cat(mels).unsqueeze(1), latent_channels=CHANNELS, patch_size=PATCH
    )


def build_unet() -> UNet2DConditionModel:
    """Build the UNet over (24, 64, 8) latents."""
    return diffusion.build_unet(FRAMES // PATCH, CHANNELS, (96, 128, 192))


def encode_latents(bank: AudioBank, vae: PatchAutoencoder, path: Path) -> Tensor:
    """Encode crops of the training audio, or read them from the file of an earlier run.

    Returns:
        Latents of unit scale, shape (rows, crops, channels, 64, 8). The first crop of a row is
        unaltered, the others start elsewhere and are played faster or slower.
    """
    if path.is_file():
        return load_file(path)["latents"]
    generator = torch.Generator().manual_seed(0)
    latents = []
    for row in track(range(len(bank)), description="latents"):
        speeds = 2 ** (0.5 * torch.rand(CROPS, generator=generator) - 0.25)
        speeds[0] = 1
        lengths = (CLIP_SAMPLES * speeds).round().int().tolist()
        crops = [bank.crop(row, length, generator).view(1, 1, -1) for length in lengths]
        waveforms = [F.interpolate(crop, size=CLIP_SAMPLES, mode="linear")[:, 0] for crop in crops]
        with torch.inference_mode():
            encoded = vae.encode(log_mel(torch.cat(waveforms)).unsqueeze(1))
        latents.append(encoded.latent_dist.mode())
    save_tensors({"latents": torch.stack(latents)}, path)
    return torch.stack(latents)


def condition_latents(
    bank: AudioBank, latents: Tensor, index: Tensor, embeds: Tensor, means: Tensor
) -> ConditionedLatents:
    """Pair latents with the CLAP embeddings (n, 512) of the files (n,) and their altered copies."""
    copies = torch.stack([embeds[index == number] for number in bank.indices])
    return ConditionedLatents(latents, copies, means[bank.labels], bank.weights)


def add_images(
    clips: ConditionedLatents,
    labels: Tensor,
    images: tuple[Tensor, Tensor],
    class_names: Sequence[str],
) -> ConditionedLatents:
    """Add translated images of their classes to the conditions that latents are paired with.

    All classes are drawn equally often, those of `HARD_CLASSES` as many times as often.

    Args:
        clips: Latents and conditions of n files.
        labels: Class numbers of the files, shape (n,).
        images: CLAP embeddings (m, 512) of translated images, and their class numbers (m,).
        class_names: Names of the classes.
    """
    draws = torch.Generator().manual_seed(0)
    embeds, image_labels = images
    shares = (labels.unsqueeze(1) == image_labels).float()
    drawn = embeds[torch.multinomial(shares, IMAGES, replacement=True, generator=draws)]
    often = torch.tensor([HARD_CLASSES.get(name, 1.0) for name in class_names])
    return replace(
        clips,
        embeds=torch.cat([clips.embeds, drawn], dim=1),
        weights=class_weights(labels) * often[labels],
    )


def train_generator(
    clips: ConditionedLatents, stage: Stage, *, start: ConditionalUNet | None = None
) -> ConditionalUNet:
    """Train a `ConditionalUNet` to generate audio, from a trained one if there is a `start`.

    The condition is a random mix of one of a clip's CLAP embeddings and its class mean: translated
    images are near the mean, embeddings of real audio further away.
    """

    def draw_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = clips.draw(BATCH, generator)
        latents = _pick(clips.latents[rows], generator)
        # Audio is repeated to the clip's length, so any cyclic shift of a clip is valid.
        shifts = torch.randint(latents.shape[2], (BATCH,), generator=generator).tolist()
        shifted = [x.roll(shift, dims=1) for x, shift in zip(latents, shifts, strict=True)]
        mix = torch.rand(BATCH, 1, generator=generator)
        embeds = mix * _pick(clips.embeds[rows], generator)
        embeds = embeds + (1 - mix) * clips.means[rows]
        embeds = embeds + 0.01 * torch.randn(embeds.shape, generator=generator)
        return torch.stack(shifted), embeds

    def build() -> ConditionalUNet:
        if start is not None:
            return deepcopy(start)
        return ConditionalUNet(build_unet(), clips.embeds.shape[-1])

    return train_unet(build, draw_batch, stage)


def tune_generator(
    clips: ConditionedLatents, start: ConditionalUNet, stage: Stage
) -> ConditionalUNet:
    """Tune a trained `ConditionalUNet`, and average its weights with those before.

    The average forgets less of what the tuning seldom draws (Wortsman et al. 2022,
    https://arxiv.org/abs/2109.01903).
    """
    tuned = train_generator(clips, stage, start=start)
    with torch.no_grad():
        for after, before in zip(tuned.parameters(), start.parameters(), strict=True):
            after.lerp_(before, 0.5)
    return tuned


def _pick(values: Tensor, generator: torch.Generator) -> Tensor:
    """Pick one entry of the second dimension for each row."""
    places = torch.randint(values.shape[1], (len(values),), generator=generator)
    return values[torch.arange(len(values)), places]
