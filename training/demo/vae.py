"""The demo generator's autoencoder: log-mel spectrograms to latents and back."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from clip2clap.training.demo.loop import Fit, Schedule, fit
from clip2clap.training.demo.mel import HOP, log_mel, mel_filters
from clip2clap.training.demo.sounds import SoundBank

CROP_FRAMES = 128
BATCH = 8
# Small, as in latent diffusion (https://arxiv.org/abs/2112.10752): latents stay near unit scale
# and keep the detail.
KL_WEIGHT = 1e-5
SCHEDULE = Schedule(steps=1700, learning_rate=1e-3, ema_decay=0.995)


def build_vae() -> AutoencoderKL:
    """Build the autoencoder: (1, 512, 64) spectrograms to (16, 64, 8) latents."""
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 4,  # pyright: ignore[reportArgumentType]
        block_out_channels=(32, 64, 96, 128),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=16,
        sample_size=512,
        mid_block_add_attention=False,
    )
    # Start at the mean of log-mel spectrograms rather than learn the way there.
    bias = vae.decoder.conv_out.bias
    assert bias is not None
    nn.init.constant_(bias, -5.0)
    return vae


def train_vae(bank: SoundBank, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the autoencoder on recordings and set its `scaling_factor`.

    Args:
        bank: Training recordings, of known kinds or not.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        The trained `AutoencoderKL`, with what it took.
    """
    filters = mel_filters()

    def step(vae: Any, generator: torch.Generator) -> Tensor:
        rows = bank.draw(BATCH, generator)
        mels = log_mel(bank.batch(rows, CROP_FRAMES * HOP, generator), filters).unsqueeze(1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(mels).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample
        difference = (decoded.float() - mels).abs()
        return difference.mean() + KL_WEIGHT * posterior.kl().mean() / (CROP_FRAMES / 8)

    result = fit(build_vae(), step, schedule, folder, name="autoencoder")
    vae: Any = result.model
    with torch.inference_mode():
        rows = bank.draw(64, torch.Generator().manual_seed(0))
        mels = log_mel(bank.batch(rows, 512 * HOP), filters).unsqueeze(1)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in mels.split(8)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return result
