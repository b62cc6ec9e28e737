"""The course of one model's training: its figures so far, its best weights, and when it ends."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.report import EpochRecord

Weights = dict[str, Tensor]


class TrainerState:
    """The figures of every epoch, and the weights of the best.

    Args:
        config: The run's settings.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.history: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self.best_weights: Weights = {}
        self.seconds = 0.0

    def add(
        self, train_loss: float, validation_loss: float, validation: dict[str, float]
    ) -> EpochRecord:
        """Add an epoch's figures.

        Raises:
            UserError: If training diverged.
        """
        number = len(self.history) + 1
        if not math.isfinite(train_loss):
            raise UserError(
                f"Training diverged in epoch {number}: the loss is {train_loss}. Give a learning "
                f"rate below {self.config.learning_rate:g}."
            )
        record = EpochRecord(number, train_loss, validation_loss, validation)
        self.history.append(record)
        return record

    def keep_if_best(self, weights: Callable[[], Weights]) -> None:
        """Keep the weights if the last epoch is the best so far."""
        best, last = self.best, self.history[-1]
        if best is None or self._score(last) > self._score(best):
            self.best_epoch = last.epoch
            self.best_weights = {
                name: weight.detach().cpu().clone() for name, weight in weights().items()
            }

    @property
    def best(self) -> EpochRecord | None:
        """The best epoch's figures."""
        return None if self.best_epoch is None else self.history[self.best_epoch - 1]

    @property
    def is_over(self) -> bool:
        """Whether the epochs or the patience have run out."""
        done = len(self.history)
        if done >= self.config.epochs:
            return True
        patience = self.config.patience
        return patience is not None and done - (self.best_epoch or 0) >= patience

    def state(self) -> dict[str, Any]:
        """Give all but the weights as plain values, for a checkpoint."""
        return {
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
        }

    def restore(self, state: dict[str, Any], best_weights: Weights) -> None:
        """Take up what `state` gave."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best_epoch, self.seconds = state["best_epoch"], state["seconds"]
        self.best_weights = best_weights

    def _score(self, record: EpochRecord) -> tuple[float, float]:
        if self.config.architecture == "prior":
            # A draw from many right answers is rarely the nearest, and the better the rarer.
            return -record.validation_loss, 0.0
        # Retrieval among few or easy pairs is soon perfect; the loss then still tells epochs apart.
        return record.validation[self.config.monitor], -record.validation_loss


def learning_rate_at(config: TrainingConfig, step: int, steps: int) -> float:
    """Give the learning rate of a step.

    Args:
        config: The run's settings, with a `learning_rate`.
        step: From 0.
        steps: Of all epochs.
    """
    assert config.learning_rate is not None
    rising = math.ceil(config.warmup * steps)
    if step < rising:
        return config.learning_rate * (step + 1) / rising
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - rising) / max(1, steps - rising)
    return config.learning_rate * (1 + math.cos(math.pi * done)) / 2


def computes_in_bf16(config: TrainingConfig, device: torch.device) -> bool:
    """Tell whether the network is to be computed in bfloat16."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without such units the processor emulates it, more slowly than float32.
    return device.type == "cpu" and torch.cpu._is_amx_tile_supported()


@torch.no_grad()
def held_out_loss(
    loss: TranslationLoss, predicted: Tensor, target: Tensor, bank: Tensor | None, batch_size: int
) -> float:
    """Give the mean loss over held-out pairs, in batches of the training's size."""
    total = 0.0
    for part, true in zip(predicted.split(batch_size), target.split(batch_size), strict=True):
        total += loss(part, true, bank).item() * len(part)
    return total / len(predicted)
