"""What came of a training run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class EpochRecord:
    """One epoch's figures."""

    epoch: int
    """From 1."""

    train_loss: float
    """Mean over the epoch's pairs, while the weights were moving."""

    validation_loss: float
    """Mean over the held-out pairs, in batches of the training's size."""

    validation: dict[str, float]
    """What `retrieval_metrics` gives on the held-out pairs."""


@dataclass(frozen=True)
class TrainingProgress:
    """How far a run is, for a progress bar."""

    epoch: int
    """The epoch under way, from 1."""

    epochs: int
    """How many there are at most."""

    step: int
    """Steps done in this epoch."""

    steps: int
    """Steps in an epoch."""

    last: EpochRecord | None
    """The last finished epoch."""

    best: EpochRecord | None
    """The best finished epoch."""


@dataclass(frozen=True)
class TrainingReport:
    """What came of a training run; `training.json` holds the same."""

    output: str | None
    """The translator's folder."""

    settings: dict[str, Any]
    """The `TrainingConfig`, as plain values."""

    data: str
    """Fingerprint of the pairs."""

    source_column: str
    """What was mapped from."""

    target_column: str
    """What was mapped to."""

    pairs: dict[str, int]
    """Number of pairs in `train`, `validation` and `test`."""

    monitor: str
    """The held-out figure that chose the epoch, or ridge's penalty."""

    history: list[EpochRecord]
    """The loss curves; empty for a closed-form fit."""

    best_epoch: int | None
    """The epoch whose weights were kept; None for a closed-form fit."""

    stopped_early: bool
    """Whether patience ran out before the epochs did."""

    resumed_after: int | None
    """The epoch after which a killed run was taken up; None if it was not."""

    seconds: float
    """Spent on training and measuring, over all attempts."""

    measured_on: Literal["validation", "test"]
    """The split of the figures below. Validation pairs also chose the epoch, test pairs nothing."""

    metrics: dict[str, float]
    """What `retrieval_metrics` gives for the translator on pairs it has not seen."""

    shuffled_pairs: dict[str, float]
    """The same predictions against other pairs' targets: what chance gives."""

    mean_vector: dict[str, float]
    """The training targets' mean in place of every prediction: what ignoring the source gives."""

    @property
    def epochs_run(self) -> int:
        """How many epochs were gone through."""
        return len(self.history)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch whose weights were kept."""
        return None if self.best_epoch is None else self.history[self.best_epoch - 1]

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> "TrainingReport":
        """Read a report that was written as JSON."""
        values = json.loads(path.read_text(encoding="utf-8"))
        values["history"] = [EpochRecord(**record) for record in values["history"]]
        return cls(**values)


@dataclass(frozen=True)
class SweepResult:
    """What came of one model."""

    name: str
    """Its folder's name."""

    data: str
    """What it was trained on."""

    report: TrainingReport | None
    """Its settings, curves and figures; None if it diverged."""

    held_out: dict[str, dict[str, float]]
    """What `retrieval_metrics` gives on the held-out pairs of every table, by its name; no model of
    the sweep has seen them."""

    def row(self) -> dict[str, Any]:
        """Give a line of `results.csv`."""
        if self.report is None:
            return {"name": self.name, "data": self.data, "status": "diverged"}
        report, settings = self.report, self.report.settings
        kept = (
            "hidden_size",
            "loss",
            "learning_rate",
            "batch_size",
            "temperature",
            "noise",
            "center",
        )
        return {
            "name": self.name,
            "data": self.data,
            "status": "stopped early" if report.stopped_early else "done",
            **{key: settings[key] for key in (*kept, "epochs", "seed")},
            "source": report.source_column,
            "target": report.target_column,
            "train_pairs": report.pairs["train"],
            "epochs_run": report.epochs_run,
            "best_epoch": report.best_epoch,
            "seconds": round(report.seconds, 3),
            "measured_on": report.measured_on,
            **report.metrics,
            "chance_recall_at_10": report.shuffled_pairs["recall_at_10"],
            **{
                f"{figure} on {table}": figures[figure]
                for table, figures in self.held_out.items()
                for figure in ("recall_at_10", "mrr")
            },
        }
