"""The verb `train`."""

import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    check_model_folder,
    check_translator,
    choose_device,
    require,
)
from clip2clap.cli.options.training import Train
from clip2clap.cli.progress import RunReport, plain_table, share_bar
from clip2clap.core.presets import COMPANIONS, PRESETS

_SHOWN_METRICS = {
    "cosine": "cosine similarity",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "recall_at_10": "recall at 10",
    "mrr": "mean reciprocal rank",
    "median_rank": "median rank",
}
_CENTER = {"auto": None, "yes": True, "no": False}


def train(options: Train) -> None:
    """Train a translator on pairs of embeddings.

    A run that was stopped continues where it stopped if it is started again in the same way.
    """
    check_exists(options.table, "table")
    check_device(options.device, None)
    check_translator(options.init_from, "init_from")
    if options.target_table is not None:
        check_exists(options.target_table, "target_table")
        wrong = "it is for --architecture unpaired; others are trained on the pairs of one table."
        require(options.architecture == "unpaired", "target_table", wrong)

    from clip2clap.training.config import TrainingConfig

    make = {
        "fast": TrainingConfig,
        "reference": TrainingConfig.reference,
        "deployed": TrainingConfig.deployed,
    }[options.recipe]
    config = make(**config_settings(options, TrainingConfig))
    table = options.table.absolute()
    output = options.output or table.with_name(f"{table.name}-translator")
    check_model_folder(output)
    report = RunReport(options)
    if options.target_table is not None:
        _fit_unpaired(options, options.target_table, output, config, report)
        return
    training = train_with_bar(options.table, output, config, options)
    report.show(*training_lines(training), f"Next: {_next_command(output)}")
    report.end(training.to_dict())


def _fit_unpaired(
    options: Train, target_table: Path, output: Path, config: Any, report: RunReport
) -> None:
    """Fit a translator to the rows of two tables, and report."""
    from clip2clap.training.unpaired import train_unpaired

    with Console(stderr=True).status("Fitting"):
        fitted = train_unpaired(
            options.table, target_table, output, config, overwrite=options.overwrite
        )
    report.show(
        f"{output}: {fitted.source_column} -> {fitted.target_column}, {fitted.source_rows} and "
        f"{fitted.target_rows} rows without pairs, fitted in {fitted.seconds:.1f} s.",
        f"Consistency {fitted.consistency:.3f}, 1 for clouds of equal shape. Measure it on pairs: "
        f"clip2clap evaluate {shlex.quote(str(output))} --table TABLE",
    )
    report.end(fitted.to_dict())


def config_settings(options: Any, names_from: Any) -> dict[str, Any]:
    """Return the options that were given and are fields of a dataclass, by name."""
    given = {each.name: getattr(options, each.name, None) for each in fields(names_from)}
    given = {name: value for name, value in given.items() if value is not None}
    if "center" in given:
        given["center"] = _CENTER[given["center"]]
    if "patience" in given:
        given["patience"] = given["patience"] or None
    return given


def train_with_bar(table: Path, output: Path, config: Any, options: Any) -> Any:
    """Train under a progress bar, on the device and with the overwriting of a verb's options."""
    from clip2clap.training.train import train as train_translator

    with share_bar("Training") as advance:

        def on_progress(state: Any) -> None:
            best = ""
            if state.best is not None:
                best = f", best {state.best.validation[config.monitor]:.3f}"
            epochs = state.epoch - 1 + state.step / state.steps
            advance(epochs / config.epochs, f"Epoch {state.epoch}{best}")

        return train_translator(
            table,
            output,
            config,
            device=None if options.device == "auto" else str(choose_device(options.device)),
            overwrite=options.overwrite,
            on_progress=on_progress,
        )


def training_lines(training: Any) -> tuple[Table, str]:
    """Return the held-out metrics beside those of two controls, and a summary."""
    table = plain_table(
        f"on {training.pairs[training.measured_on]} {training.measured_on} pairs",
        *("translator", "shuffled pairs", "mean vector"),
    )
    for name, label in _SHOWN_METRICS.items():
        if name in training.metrics:
            columns = (training.metrics, training.shuffled_pairs, training.mean_vector)
            digits = 1 if name == "median_rank" else 3
            table.add_row(label, *(f"{metrics[name]:.{digits}f}" for metrics in columns))
    columns = f"{training.source_column} -> {training.target_column}"
    summary = f"{training.output}: {columns}, {training.pairs['train']} pairs"
    if training.best_epoch is None:
        return table, f"{summary}, fitted in {training.seconds:.1f} s."
    stopped = ", stopped early" if training.stopped_early else ""
    kept = f"epoch {training.best_epoch} of {training.epochs_run} kept{stopped}"
    return table, f"{summary}, {kept} ({training.seconds:.1f} s)."


def _next_command(translator: Path) -> str:
    """Return a command that uses a translator, with the model of its target space if known."""
    from clip2clap.translator.checkpoint import read_config

    target = read_config(translator)["target_space"] or {}
    named = target.get("model_id")
    folder = shlex.quote(str(translator))
    if target.get("family") == "clip":
        decoders = [
            name
            for name, repo_id in PRESETS["decoder"].items()
            if named in (name, repo_id, COMPANIONS.get(repo_id, {}).get("clip"))
        ]
        models = f"--decoder {(decoders or ['DECODER'])[0]} --translator {folder}"
        return f"clip2clap audio-to-image AUDIO -o images {models}"
    generators = {name for preset in PRESETS["generator"].items() for name in preset}
    generator = named if named in generators else "GENERATOR"
    return f"clip2clap image-to-audio IMAGE -o audio --generator {generator} --translator {folder}"
