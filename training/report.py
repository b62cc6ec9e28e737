"""Training run report."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from clip2clap.training.config import upgrade_settings


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch, counted from 1.

    `train_loss` is the mean loss over the epoch's pairs, during training, and `validation_loss`
    that over the held-out pairs, in batches of the training's size; `validation` has the retrieval
    metrics on the held-out pairs.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    validation: dict[str, float]


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of a run, for a progress bar: current epoch, from 1, and its finished steps.

    `last` and `best` are the last and the best finished epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    last: EpochRecord | None
    best: EpochRecord | None


class EpochReport:
    """Report of a run of epochs, for dataclasses with `history` and `best_epoch`."""

    history: list[EpochRecord]
    best_epoch: int | None

    @property
    def best(self) -> EpochRecord | None:
        """Metrics of the best epoch."""
        return None if self.best_epoch is None else self.history[self.best_epoch - 1]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        own: Any = self
        return asdict(own)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a report from its JSON file."""
        values = cls._upgraded(json.loads(path.read_text(encoding="utf-8")))
        values["history"] = [EpochRecord(**record) for record in values["history"]]
        made: Any = cls
        return made(**values)

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the values of a file in today's form."""
        return values


@dataclass(frozen=True)
class TrainingReport(EpochReport):
    """Training run report, as in `training.json`.

    Attributes:
        output: Output folder.
        settings: `TrainingConfig` as plain values.
        data: Fingerprint of the pairs.
        source_column: Source column.
        target_column: Target column.
        pairs: Number of pairs in `train`, `validation` and `test`.
        monitor: Held-out metric that picked the epoch, or ridge's penalty.
        history: Loss curves; empty for a closed-form fit.
        best_epoch: Best epoch, whose weights are saved; None for a closed-form fit.
        stopped_early: True if patience ran out before the epochs did.
        resumed_after: Epoch of the checkpoint that the run was resumed from, if it was.
        seconds: Duration of training and measurement over all attempts.
        measured_on: Split of the metrics below. Validation pairs also picked the epoch, test pairs
            nothing.
        metrics: Retrieval metrics on held-out pairs.
        shuffled_pairs: Control: the same predictions against other pairs' targets.
        mean_vector: Control: the mean of the training targets in place of every prediction.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs, TrainingConfig, TrainingReport, train
        >>> pairs = Pairs(torch.randn(100, 8), torch.randn(100, 6))
        >>> report = train(pairs, "translator", TrainingConfig(hidden_size=16, epochs=2))
        >>> isinstance(report, TrainingReport), report.epochs_run
        (True, 2)
    """

    output: str | None
    settings: dict[str, Any]
    data: str
    source_column: str
    target_column: str
    pairs: dict[str, int]
    monitor: str
    history: list[EpochRecord]
    best_epoch: int | None
    stopped_early: bool
    resumed_after: int | None
    seconds: float
    measured_on: Literal["validation", "test"]
    metrics: dict[str, float]
    shuffled_pairs: dict[str, float]
    mean_vector: dict[str, float]

    @property
    def epochs_run(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    @classmethod
    def _upgraded(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {**values, "settings": upgrade_settings(values["settings"])}


@dataclass(frozen=True)
class SweepResult:
    """Result of one model of a sweep.

    Attributes:
        name: Name of its folder.
        data: Name of its training data.
        report: Settings, curves and metrics; None if it diverged.
        held_out: Retrieval metrics on the held-out pairs of every table, by its name; no model of
            the sweep is trained on them.

    Examples:
        >>> from clip2clap.training import SweepResult
        >>> SweepResult("8-cosine", "captions", None, {}).row()["status"]
        'diverged'
    """

    name: str
    data: str
    report: TrainingReport | None
    held_out: dict[str, dict[str, float]]

    def row(self) -> dict[str, Any]:
        """Return a line of `results.csv`."""
        if self.report is None:
            return {"name": self.name, "data": self.data, "status": "diverged"}
        report = self.report
        kept = ("hidden_size", "loss", "learning_rate", "batch_size", "temperature", "noise")
        held_out = {
            f"{name} on {table}": metrics[name]
            for table, metrics in self.held_out.items()
            for name in ("recall_at_10", "mrr")
        }
        return {
            "name": self.name,
            "data": self.data,
            "status": "stopped early" if report.stopped_early else "done",
            **{key: report.settings[key] for key in (*kept, "center", "epochs", "seed")},
            "source": report.source_column,
            "target": report.target_column,
            "train_pairs": report.pairs["train"],
            "epochs_run": report.epochs_run,
            "best_epoch": report.best_epoch,
            "seconds": round(report.seconds, 3),
            "measured_on": report.measured_on,
            **report.metrics,
            "chance_recall_at_10": report.shuffled_pairs["recall_at_10"],
            **held_out,
        }
