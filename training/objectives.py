"""Training objectives: training loss and validation of regression and diffusion translators."""

from typing import Any

import torch
from torch import Tensor

from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.batches import generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.trainer_state import computes_in_bf16
from clip2clap.training.validation import HeldOut
from clip2clap.translator.prior import PriorTranslator

# 0 weighs all errors alike; 1 is the "SNR+1" weighting (Salimans and Ho 2022,
# https://arxiv.org/abs/2202.00512). On a known mixture, after short training, 0.75 and 1 give a
# spread that is up to 16 % too wide, this one up to 10 %; on real pairs it makes no difference.
_WEIGHT_POWER = 1.25


class RegressionObjective:
    """Loss between the translated vectors and their targets, by resolved settings.

    A loss that needs it has the bank of the distinct targets of all pairs.
    """

    selects_by_loss = False
    """Pick the best epoch by its validation loss instead of the monitored metric."""

    def __init__(
        self, network: Any, loss: TranslationLoss, bank: Tensor | None, config: TrainingConfig
    ):
        self.network, self.loss, self.bank, self.config = network, loss, bank, config

    def step_loss(self, prepared: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of unit vectors, prepared by the network.

        `generator` yields the random numbers of the epoch, on the CPU.
        """
        del generator
        return self.loss(self._predict(prepared), target, self.bank)

    def validate(self, held_out: HeldOut, batch_size: int) -> tuple[float, dict[str, float]]:
        """Return the loss and the retrieval metrics on held-out pairs; NaN if it diverged."""
        predicted = self._predict(self.network.prepare(held_out.source))
        return held_out.measure(predicted, self.loss, batch_size)

    def _predict(self, prepared: Tensor) -> Tensor:
        bf16 = computes_in_bf16(self.config, prepared.device)
        with torch.autocast(prepared.device.type, torch.bfloat16, enabled=bf16):
            translated = self.network.translate(prepared)
        return self.network.finish(translated)


class DiffusionObjective(RegressionObjective):
    """Denoising loss of a diffusion prior."""

    # A sample among many right answers is rarely the nearest, and the less so the better it is.
    selects_by_loss = True

    def step_loss(self, prepared: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return the denoising loss of a batch."""
        return denoising_loss(
            self.network, prepared, target, self.config.condition_dropout, generator
        )

    def validate(self, held_out: HeldOut, batch_size: int) -> tuple[float, dict[str, float]]:
        """Return the loss and the retrieval metrics on held-out pairs; NaN if it diverged."""
        del batch_size
        # The same noise after every epoch makes the losses comparable.
        generator = generator_for("noise", self.config.seed, 0)
        prepared = self.network.prepare(held_out.source)
        loss = denoising_loss(self.network, prepared, held_out.target, 0.0, generator)
        if not bool(loss.isfinite()):
            return float("nan"), {}
        return loss.item(), retrieval_metrics(self.network(held_out.source), held_out.target)


OBJECTIVES: dict[str, type[RegressionObjective]] = {
    "regression": RegressionObjective,
    "diffusion": DiffusionObjective,
}
"""Objective by `Translator.objective`."""


def denoising_loss(
    prior: PriorTranslator,
    source: Tensor,
    target: Tensor,
    condition_dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """Compute the denoising loss of a diffusion prior for prepared unit vectors and their targets.

    The mean squared error of the clean vector, not of the noise (DALL-E 2, Ramesh et al. 2022,
    https://arxiv.org/abs/2204.06125), at uniform timesteps, divided by a power of the noise
    variance: the spread of samples depends on the small errors at low noise. Conditions are dropped
    with a probability, for classifier-free guidance (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598). The generator is on the CPU.
    """
    count, device = len(target), target.device
    if prior.target_mean is not None:
        target = target - prior.target_mean
    timesteps = torch.randint(1000, (count,), generator=generator)
    noise = torch.randn(target.shape, dtype=torch.float32, generator=generator)
    cond_mask = torch.rand(count, dtype=torch.float32, generator=generator) >= condition_dropout
    timesteps, noise, cond_mask = (drawn.to(device) for drawn in (timesteps, noise, cond_mask))
    noisy = prior.add_noise(target, noise, timesteps)
    predicted = prior.predict(noisy, timesteps, source, cond_mask)
    errors = (predicted - target * target.shape[1] ** 0.5).square().mean(1, keepdim=True)  # (n, 1)
    return (errors / prior.noise_variance(timesteps) ** _WEIGHT_POWER).mean()
