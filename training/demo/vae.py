"""The demo generator's autoencoder: log-mel spectrograms to latents and back."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.demo.critic import PatchCritic, contest
from clip2clap.training.demo.loop import Fit, Schedule, fit, mixed_precision
from clip2clap.training.demo.mel import HOP, log_mel, mel_filters
from clip2clap.training.demo.sounds import SoundBank

CROP_FRAMES = 128
BATCH = 8
# Recordings whose latents' deviation sets the scale.
SCALE_ROWS = 64
# Small, as in latent diffusion (https://arxiv.org/abs/2112.10752): latents stay near unit scale
# and keep the detail.
KL_WEIGHT = 1e-5
SCHEDULE = Schedule(steps=1700, learning_rate=1e-3, ema_decay=0.995)
# Of a latent's standard deviation, at most; of the error's gradient.
LATENT_NOISE, CRITIC_SHARE = 0.2, 1.0
EAR_SHARE = 1.0
EAR_SCHEDULE = Schedule(steps=1500, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.99, seed=3)
DECODER_SCHEDULE = Schedule(
    steps=7000, learning_rate=3e-4, weight_decay=0.0, betas=(0.5, 0.99), ema_decay=0.998
)


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
        with mixed_precision():
            posterior = vae.encode(mels).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample
        difference = (decoded.float() - mels).abs()
        return difference.mean() + KL_WEIGHT * posterior.kl().mean() / (CROP_FRAMES / 8)

    result = fit(build_vae(), step, schedule, folder, name="autoencoder")
    vae: Any = result.model
    with torch.inference_mode():
        rows = bank.draw(SCALE_ROWS, torch.Generator().manual_seed(0))
        mels = log_mel(bank.batch(rows, 512 * HOP), filters).unsqueeze(1)
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in mels.split(8)])
    vae.register_to_config(scaling_factor=1 / latents.std().item())
    return result


class Ear(nn.Module):
    """A small classifier of recordings, by whose inner layers the decoder is compared with them.

    Perceptual losses: Johnson et al. 2016, https://arxiv.org/abs/1603.08155. It is not the judge of
    the evaluation: another shape, other labels, and other draws.
    """

    def __init__(self, classes: int):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(i, o, 5, padding=2, bias=False),
                nn.BatchNorm2d(o),
                nn.GELU(),
                nn.AvgPool2d(2),
            )
            for i, o in ((1, 24), (24, 48), (48, 96), (96, 144))
        )
        self.head = nn.Linear(144, classes)

    def inner(self, mels: Tensor) -> list[Tensor]:
        """Return what each layer makes of spectrograms (n, 1, frames, bins) of unit scale."""
        made = [mels]
        for layer in self.layers:
            made.append(layer(made[-1]))
        return made[1:]

    def forward(self, mels: Tensor) -> Tensor:
        """Map spectrograms (n, 1, frames, bins) of unit scale to logits (n, classes)."""
        return self.head(self.inner(mels)[-1].mean(dim=3).amax(dim=2))


def train_ear(
    bank: SoundBank, labels: Tensor, folder: Path, schedule: Schedule = EAR_SCHEDULE
) -> Fit:
    """Train the ear.

    Args:
        bank: Training recordings, of known kinds or not.
        labels: The label of each, shape (n,).
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        An `Ear`, with what it took.
    """
    filters = mel_filters()
    weights = 1 / torch.bincount(labels)[labels].float()

    def step(ear: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, 2 * BATCH, replacement=True, generator=generator)
        mels = log_mel(bank.batch(rows, 2 * CROP_FRAMES * HOP, generator), filters)
        mels = mels.unsqueeze(1) + torch.randn(len(rows), 1, 1, 1, generator=generator)
        share = 1 - 0.5 * torch.rand(len(rows), generator=generator).square()
        mixed = share[:, None, None, None] * mels + (1 - share)[:, None, None, None] * mels.roll(
            1, 0
        )
        with mixed_precision():
            logits = ear(_unit(mixed)).float()
        named = F.cross_entropy(logits, labels[rows], reduction="none")
        other = F.cross_entropy(logits, labels[rows].roll(1), reduction="none")
        return (share * named + (1 - share) * other).mean()

    torch.manual_seed(schedule.seed)
    return fit(Ear(int(labels.max()) + 1), step, schedule, folder, name="ear")


class DecoderAndCritic(nn.Module):
    """The autoencoder, of which only the decoder learns, beside its critic."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.vae = vae
        self.critic = PatchCritic(1)
        vae.requires_grad_(False)
        vae.decoder.requires_grad_(True)
        assert vae.post_quant_conv is not None
        vae.post_quant_conv.requires_grad_(True)


def train_decoder(
    bank: SoundBank,
    vae: AutoencoderKL,
    ear: Ear,
    folder: Path,
    schedule: Schedule = DECODER_SCHEDULE,
) -> Fit:
    """Teach the decoder the grain of real spectrograms, with the encoder held fixed.

    A mean absolute error alone blurs: noise comes out as a smooth surface, which neither ears nor
    classifiers take for noise. Here the error is taken of local means and of what an ear makes of
    the sound, and a critic judges the rest. Latents are disturbed a little, as generated ones are.

    Args:
        bank: Training recordings, of known kinds or not.
        vae: The trained autoencoder; changed.
        ear: The trained ear.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        The `AutoencoderKL` with its new decoder, with what it took.
    """
    filters = mel_filters()
    spread = 1 / vae.config["scaling_factor"]
    ear.requires_grad_(False)

    def error(made: Tensor, real: Tensor) -> Tensor:
        heard = zip(ear.inner(made), ear.inner(real), strict=True)
        apart = [F.l1_loss(a, b) / b.abs().mean() for a, b in heard]
        return _blur_error(made, real) + EAR_SHARE * torch.stack(apart).mean()

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, DecoderAndCritic)
        rows = bank.draw(BATCH, generator)
        mels = log_mel(bank.batch(rows, CROP_FRAMES * HOP, generator), filters).unsqueeze(1)
        with mixed_precision():
            with torch.no_grad():
                encoded: Any = model.vae.encode(mels)
            latents = encoded.latent_dist.mean
            noise = torch.randn(latents.shape, generator=generator)
            amount = LATENT_NOISE * spread * torch.rand(len(rows), 1, 1, 1, generator=generator)
            decoded: Any = model.vae.decode(latents + amount * noise)
            made = decoded.sample.float()
            return contest(model.critic, _unit(made), _unit(mels), error, CRITIC_SHARE)

    torch.manual_seed(schedule.seed)
    result = fit(DecoderAndCritic(vae), step, schedule, folder, name="decoder")
    assert isinstance(result.model, DecoderAndCritic)
    return Fit(result.model.vae, result.seconds, result.loss)


def _unit(mels: Tensor) -> Tensor:
    return (mels + 5) / 2.5


def _blur_error(made: Tensor, real: Tensor) -> Tensor:
    """Compare local means above all: the grain is the critic's."""
    made_means, real_means = F.avg_pool2d(made, (4, 2)), F.avg_pool2d(real, (4, 2))
    return 0.3 * F.l1_loss(made, real) + F.l1_loss(made_means, real_means)
