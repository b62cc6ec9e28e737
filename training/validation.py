"""Measurement on held-out pairs, after every epoch and at the end."""

import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.losses import TranslationLoss, distinct_targets
from clip2clap.training.splits import TrainingData, thin_out
from clip2clap.translator.base import Translator

# Ranking more after every epoch would be as slow as the epoch.
_MAX_MONITORED = 2_000
_ROWS = 8_192


class HeldOut:
    """Held-out pairs that measure a network after every epoch.

    With a bank the distinct targets are kept, for a loss that needs them.
    """

    def __init__(self, data: TrainingData, with_bank: bool, device: torch.device):
        rows = thin_out(data.split.validation, _MAX_MONITORED)
        self.source = unit_norm(data.pairs.source[rows].to(device))
        self.target = unit_norm(data.pairs.target[rows].to(device))
        self.bank = distinct_targets(self.target) if with_bank else None

    @torch.no_grad()
    def measure(
        self, predicted: Tensor, loss: TranslationLoss, batch_size: int
    ) -> tuple[float, dict[str, float]]:
        """Return the loss and the retrieval metrics; NaN and none if a prediction is not finite.

        `predicted` is the network's output for `source`; some losses depend on the batch size.
        """
        if not bool(predicted.isfinite().all()):
            return float("nan"), {}
        total = 0.0
        parts = zip(predicted.split(batch_size), self.target.split(batch_size), strict=True)
        for part, true in parts:
            total += loss(part, true, self.bank).item() * len(part)
        return total / len(predicted), retrieval_metrics(predicted, self.target)


@torch.no_grad()
def predict(translator: Translator, source: Tensor) -> Tensor:
    """Translate vectors of shape (n, d_source), a thousand at a time."""
    return torch.cat([translator(part) for part in source.split(1024)])


@torch.no_grad()
def measure_with_controls(
    translator: Translator, data: TrainingData, seed: int
) -> dict[str, dict[str, float]]:
    """Measure a translator beside two controls: shuffled pairs, and a constant prediction.

    The rows are the test rows, or the validation rows where there are none. Returned are retrieval
    metrics as `metrics`, `shuffled_pairs` and `mean_vector`. The translator is on the CPU.
    """
    pairs, split = data.pairs, data.split
    rows = split.measured_rows
    target = pairs.target[rows]
    predicted = predict(translator, pairs.source[rows])
    # A random cycle through all rows, so that each gets another's target.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    mean = sum(unit_norm(pairs.target[part]).sum(0) for part in split.train.split(_ROWS))
    constant = torch.as_tensor(mean).expand(len(rows), -1)
    return {
        "metrics": retrieval_metrics(predicted, target),
        "shuffled_pairs": retrieval_metrics(predicted, target[other]),
        "mean_vector": retrieval_metrics(constant, target),
    }
