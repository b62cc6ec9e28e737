"""State of one model's training: metrics so far, best weights, and when to stop."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.report import EpochRecord

Weights = dict[str, Tensor]


class Stoppable(Protocol):
    """Settings of a run that its end depends on."""

    @property
    def epochs(self) -> int:
        """Largest number of epochs."""
        ...

    @property
    def patience(self) -> int | None:
        """Epochs without a better one before training stops."""
        ...

    @property
    def learning_rate(self) -> float | None:
        """Peak learning rate."""
        ...


class Schedulable(Stoppable, Protocol):
    """Settings of a run that its learning rate and its end depend on."""

    @property
    def schedule(self) -> str:
        """Learning rate schedule."""
        ...

    @property
    def warmup(self) -> float:
        """Share of all steps in which the learning rate rises."""
        ...

    @property
    def precision(self) -> str:
        """Precision of the arithmetic."""
        ...


class TrainerState:
    """Metrics of every epoch, and the weights of the best.

    The best has the highest `monitor`, which is the config's if not given, or with `select_by_loss`
    the lowest validation loss.
    """

    def __init__(
        self, config: Stoppable, *, monitor: str | None = None, select_by_loss: bool = False
    ):
        self.config, self.select_by_loss = config, select_by_loss
        self._monitor: str = monitor or getattr(config, "monitor", "")
        self.before: EpochRecord | None = None
        """Metrics before the first epoch, of a run that may make a model worse."""
        self.history: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self.best_weights: Weights = {}
        self.seconds = 0.0

    def start(
        self, validation: dict[str, float], weights: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        """Note the metrics before the first epoch, the best until one is better."""
        self.before = EpochRecord(0, math.nan, math.nan, validation)
        self.best_epoch, self.best_weights = 0, copied(weights())

    def add(self, train_loss: float, validation_loss: float, validation: dict[str, float]) -> None:
        """Add the metrics of an epoch.

        Raises:
            UserError: If training diverged.
        """
        number = len(self.history) + 1
        if not math.isfinite(train_loss):
            raise UserError(
                f"Training diverged in epoch {number}: the loss is {train_loss}. Give a learning "
                f"rate below {self.config.learning_rate:g}.",
                param="learning_rate",
            )
        self.history.append(EpochRecord(number, train_loss, validation_loss, validation))

    def keep_if_best(self, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Copy the weights if the last epoch is the best so far."""
        best, last = self.best, self.history[-1]
        if best is None or self._score(last) > self._score(best):
            self.best_epoch, self.best_weights = last.epoch, copied(weights())

    @property
    def best(self) -> EpochRecord | None:
        """Metrics of the best epoch."""
        return self.history[self.best_epoch - 1] if self.best_epoch else self.before

    @property
    def is_over(self) -> bool:
        """True when the epochs or the patience have run out."""
        done, patience = len(self.history), self.config.patience
        is_patient = patience is None or done - (self.best_epoch or 0) < patience
        return done >= self.config.epochs or not is_patient

    def state(self) -> dict[str, Any]:
        """Return everything but the weights as plain values, for a checkpoint."""
        return {
            "before": None if self.before is None else asdict(self.before),
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }

    def restore(self, values: dict[str, Any], best_weights: Weights) -> None:
        """Load what `state` returned."""
        before = values.get("before")
        self.before = None if before is None else EpochRecord(**before)
        self.history = [EpochRecord(**record) for record in values["history"]]
        self.best_epoch, self.seconds = values["best_epoch"], values["seconds"]
        self.best_weights = best_weights

    def _score(self, record: EpochRecord) -> tuple[float, float]:
        if self.select_by_loss:
            return -record.validation_loss, 0.0
        # Retrieval among few or easy pairs is soon perfect; the loss then still ranks the epochs.
        return record.validation[self._monitor], -record.validation_loss


def copied(weights: Mapping[str, Tensor]) -> Weights:
    """Return copies of weights on the CPU, without gradients."""
    return {name: weight.detach().cpu().clone() for name, weight in weights.items()}


def learning_rate_at(config: Schedulable, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, of the steps of all epochs."""
    assert config.learning_rate is not None
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - rising) / max(1, steps - rising)
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def computes_in_bf16(config: Schedulable, device: torch.device) -> bool:
    """Return True if the network is to be computed in bfloat16."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # A CPU without such units emulates it, more slowly than float32.
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()
