"""Trainer of one network: epochs of steps, each followed by a validation."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.batches import Batches, generator_for
from clip2clap.training.checkpoint import (
    flatten,
    optimizer_tensors,
    part_of,
    restore_optimizer,
)
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import TranslationLoss, denoising_loss
from clip2clap.training.networks import new_network
from clip2clap.training.report import TrainingProgress
from clip2clap.training.splits import TrainingData
from clip2clap.training.trainer_state import TrainerState, computes_in_bf16, learning_rate_at
from clip2clap.training.validation import HeldOut
from clip2clap.translator.base import Translator

OnProgress = Callable[[TrainingProgress], None]


class EpochTrainer:
    """Trainer that goes on by epochs, each followed by a validation.

    Attributes:
        config: Settings, with a `seed`.
        progress: Finished epochs, and the best weights.
    """

    config: Any
    progress: TrainerState

    @property
    def is_over(self) -> bool:
        """True when the epochs or the patience have run out."""
        return self.progress.is_over

    def advance(self) -> None:
        """Train for an epoch, and measure it."""
        started = time.monotonic()
        # Dropout draws from torch's global generators, seeded here by the epoch.
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed + len(self.progress.history))
            train_loss = self._epoch()
        self.progress.add(train_loss, *self._validate())
        self.progress.keep_if_best(self._weights)
        self.progress.seconds += time.monotonic() - started

    def _epoch(self) -> float:
        """Train for an epoch; return the mean loss over it."""
        raise NotImplementedError

    def _validate(self) -> tuple[float, dict[str, float]]:
        """Return the loss and the metrics on held-out pairs; NaN if it diverged."""
        raise NotImplementedError

    def _weights(self) -> dict[str, Tensor]:
        """Return the trained weights by their names."""
        raise NotImplementedError


class Trainer(EpochTrainer):
    """Resumable training of one network; see `clip2clap.training.checkpoint.Resumable`.

    The settings are resolved; `run` is the identity of the run, which its checkpoints carry, and
    `on_progress` is called after every step.
    """

    def __init__(
        self,
        data: TrainingData,
        config: TrainingConfig,
        device: torch.device,
        *,
        run: dict[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ):
        self.config, self.device, self.run, self.on_progress = config, device, run, on_progress
        self.batches = Batches.of(data, config, device)
        self.network: Any = new_network(data, config, self.batches).to(device)
        self.is_diffusion = self.network.objective == "diffusion"
        self.loss = new_loss(config).to(device)
        self.bank = self.batches.bank() if self.loss.needs_bank else None
        self.optimizer = torch.optim.Adam(
            [*self.network.parameters(), *self.loss.parameters()],
            fused=device.type in ("cpu", "cuda"),
        )
        self.held_out = HeldOut(data, self.loss.needs_bank, device)
        # A sample among many right answers is rarely the nearest, and the less so the better it is.
        self.progress = TrainerState(config, select_by_loss=self.is_diffusion)
        self.resumed_after: int | None = None
        self.earlier_seconds = 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and all plain values, for a checkpoint."""
        parts = {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "best": self.progress.best_weights,
            "adam": optimizer_tensors(self.optimizer),
        }
        return flatten(parts), {**self.progress.state(), "run": self.run}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.network.load_state_dict(part_of(tensors, "network"))
        self.loss.load_state_dict(part_of(tensors, "loss"))
        restore_optimizer(self.optimizer, part_of(tensors, "adam"))
        self.progress.restore(values, part_of(tensors, "best"))
        self.resumed_after = len(self.progress.history)
        self.earlier_seconds = self.progress.seconds

    def best_translator(self) -> Translator:
        """Return the translator of the best epoch, on the CPU, in evaluation mode."""
        best = self.network.to("cpu")
        best.load_state_dict(self.progress.best_weights)
        return best.eval()

    def _epoch(self) -> float:
        """Train for an epoch; return the mean loss over its pairs."""
        config, batches = self.config, self.batches
        self.network.train()
        number = len(self.progress.history) + 1
        total, pairs = torch.zeros((), device=self.device), 0
        generator = generator_for("noise", config.seed, number)
        for step, (source, target) in enumerate(batches.epoch(number), start=1):
            at = (number - 1) * batches.steps + step - 1
            rate = learning_rate_at(config, at, config.epochs * batches.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            prepared = self.network.prepare(source)
            if config.noise:
                prepared = add_noise(prepared, config.noise, generator)
            loss = self._step_loss(prepared, target, generator)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.loss.keep_scale_in_bounds()
            total += loss.detach() * len(source)
            pairs += len(source)
            self._show(number, step)
        return total.item() / pairs

    def _step_loss(self, prepared: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of unit vectors, prepared by the network."""
        if self.is_diffusion:
            dropout = self.config.condition_dropout
            return denoising_loss(self.network, prepared, target, dropout, generator)
        return self.loss(self._predict(prepared), target, self.bank)

    def _weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    @torch.no_grad()
    def _validate(self) -> tuple[float, dict[str, float]]:
        self.network.eval()
        held_out = self.held_out
        prepared = self.network.prepare(held_out.source)
        if not self.is_diffusion:
            predicted = self._predict(prepared)
            return held_out.measure(predicted, self.loss, self.batches.batch_size)
        # The same noise after every epoch makes the losses comparable.
        generator = generator_for("noise", self.config.seed, 0)
        loss = denoising_loss(self.network, prepared, held_out.target, 0.0, generator)
        if not bool(loss.isfinite()):
            return float("nan"), {}
        return loss.item(), retrieval_metrics(self.network(held_out.source), held_out.target)

    def _predict(self, prepared: Tensor) -> Tensor:
        bf16 = computes_in_bf16(self.config, prepared.device)
        with torch.autocast(prepared.device.type, torch.bfloat16, enabled=bf16):
            translated = self.network.translate(prepared)
        return self.network.finish(translated)

    def _show(self, epoch: int, step: int) -> None:
        if self.on_progress is not None:
            last, best = (self.progress.history or [None])[-1], self.progress.best
            epochs, steps = self.config.epochs, self.batches.steps
            self.on_progress(TrainingProgress(epoch, epochs, step, steps, last, best))


def new_loss(config: TrainingConfig) -> TranslationLoss:
    """Return the loss that the settings name."""
    return TranslationLoss(
        config.loss, temperature=config.temperature, learn_temperature=config.learn_temperature
    )


def add_noise(units: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to unit vectors, shape (n, d), and normalize again, as CapDec does."""
    noise = torch.randn(units.shape, dtype=torch.float32, generator=generator).to(units.device)
    return unit_norm(units + std * noise)


def recipe_of(
    config: TrainingConfig, state: TrainerState, temperatures: dict[str, float]
) -> dict[str, Any]:
    """Return the recipe of a trained network: resolved settings, and what training found."""
    kept = ("learn_temperature", "init", "noise", "init_from", "learning_rate", "schedule")
    kept += ("warmup", "precision", "batch_size", "monitor", "loss")
    return {
        "method": config.architecture,
        **{name: getattr(config, name) for name in kept},
        "temperature": next(iter(temperatures.values()), None),
        **({"temperatures": temperatures} if len(temperatures) > 1 else {}),
        "center": bool(config.center),
        "optimizer": "adam",
        "epochs": len(state.history),
        "best_epoch": state.best_epoch,
    }
