"""The verb `train`."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_device, check_exists, choose_device
from clip2clap.cli.command import parameter_of
from clip2clap.cli.options.common import Device, Json, Output, Overwrite, TableInput
from clip2clap.cli.options.training import PairsAndMonitor, TrainingOptions
from clip2clap.cli.progress import plain_console, share_bar
from clip2clap.core.presets import PRESETS

if TYPE_CHECKING:
    from clip2clap.training.config import TrainingConfig
    from clip2clap.training.report import TrainingProgress, TrainingReport

_SHOWN_METRICS = {
    "cosine": "cosine similarity",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "recall_at_10": "recall at 10",
    "mrr": "mean reciprocal rank",
    "median_rank": "median rank",
}
CENTER = {"auto": None, "yes": True, "no": False}


@dataclass(frozen=True, kw_only=True)
class TrainRun(Output, Overwrite, Device, Json):
    """Output and device of `train`."""


def train(read: TableInput, options: TrainingOptions, run: TrainRun) -> None:
    """Train a translator on pairs of embeddings.

    A run that was stopped continues where it stopped if it is started again in the same way.
    """
    check_exists(read.table, "table")
    check_device(run.device, None)

    from clip2clap.training.config import TrainingConfig

    make = TrainingConfig.reference if options.recipe == "reference" else TrainingConfig
    config = make(**config_settings(options))
    output = run.output or read.table.absolute().with_name(
        f"{read.table.absolute().name}-translator"
    )
    report = train_with_bar(read.table, output, config, device=run.device, overwrite=run.overwrite)
    if run.as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    print_report(report)
    plain_console().print(f"Next: {_next_command(output)}", soft_wrap=True)


def config_settings(options: PairsAndMonitor) -> dict[str, Any]:
    """Return the arguments of `TrainingConfig` for the options that were given."""
    given: dict[str, Any] = {
        parameter_of(each): getattr(options, each.name)
        for each in fields(options)
        if getattr(options, each.name) is not None and each.name != "recipe"
    }
    if isinstance(options, TrainingOptions) and options.center is not None:
        given["center"] = CENTER[options.center]
    if options.patience is not None:
        given["patience"] = options.patience or None
    return given


def train_with_bar(
    table: Path,
    output: Path,
    config: "TrainingConfig",
    *,
    device: str,
    overwrite: bool,
) -> "TrainingReport":
    """Train under a progress bar; the arguments are those of `training.train`."""
    from clip2clap.training.train import train as train_translator

    with share_bar(Console(stderr=True), "Training") as advance:

        def on_progress(state: "TrainingProgress") -> None:
            best = ""
            if state.best is not None:
                best = f", best {state.best.validation[config.monitor]:.3f}"
            epochs = state.epoch - 1 + state.step / state.steps
            advance(epochs / config.epochs, f"Epoch {state.epoch}{best}")

        return train_translator(
            table,
            output,
            config,
            device=None if device == "auto" else str(choose_device(device)),
            overwrite=overwrite,
            on_progress=on_progress,
        )


def print_report(report: "TrainingReport") -> None:
    """Print a run's held-out metrics and a summary."""
    out = plain_console()
    out.print(_table(report))
    out.print(_summary(report), soft_wrap=True)


def _next_command(translator: Path) -> str:
    """Return a command that uses a translator, with the model of its target space if known."""
    from clip2clap.translator.checkpoint import read_config

    target = read_config(translator)["target_space"] or {}
    named = target.get("model_id")
    if target.get("family") == "clip":
        decoders = [
            preset.id
            for preset in PRESETS["decoder"].values()
            if named in (preset.id, preset.repo_id, preset.companions.get("clip"))
        ]
        models = f"--decoder {(decoders or ['DECODER'])[0]} --translator {translator}"
        return f"clip2clap audio-to-image AUDIO -o images {models}"
    presets = PRESETS["generator"].values()
    generators = {name for preset in presets for name in (preset.id, preset.repo_id)}
    generator = named if named in generators else "GENERATOR"
    models = f"--generator {generator} --translator {translator}"
    return f"clip2clap image-to-audio IMAGE -o audio {models}"


def _table(report: "TrainingReport") -> Table:
    """Return the held-out metrics beside those of shuffled pairs and of the mean vector."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"on {report.pairs[report.measured_on]} {report.measured_on} pairs")
    for column in ("translator", "shuffled pairs", "mean vector"):
        table.add_column(column, justify="right")
    for name, label in _SHOWN_METRICS.items():
        if name in report.metrics:
            columns = (report.metrics, report.shuffled_pairs, report.mean_vector)
            digits = 1 if name == "median_rank" else 3
            table.add_row(label, *(f"{metrics[name]:.{digits}f}" for metrics in columns))
    return table


def _summary(report: "TrainingReport") -> str:
    pairs = f"{report.source_column} -> {report.target_column}, {report.pairs['train']} pairs"
    if report.best_epoch is None:
        return f"{report.output}: {pairs}, fitted in {report.seconds:.1f} s."
    stopped = ", stopped early" if report.stopped_early else ""
    return (
        f"{report.output}: {pairs}, epoch {report.best_epoch} of {report.epochs_run} kept{stopped} "
        f"({report.seconds:.1f} s)."
    )
