"""The verb `sweep`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_device, check_exists, choose_device
from clip2clap.cli.options.common import Device, Json, Output, Overwrite, TableInput
from clip2clap.cli.options.training import GridOptions, SweepOptions
from clip2clap.cli.progress import plain_console, share_bar
from clip2clap.cli.train import config_settings
from clip2clap.core.errors import UserError

if TYPE_CHECKING:
    from clip2clap.training.report import SweepResult
    from clip2clap.training.sweep.run import SweepProgress


@dataclass(frozen=True, kw_only=True)
class SweepRun(Output, Overwrite, Device, Json):
    """Output and device of `sweep`."""


def sweep(read: TableInput, options: SweepOptions, grid: GridOptions, run: SweepRun) -> None:
    """Train many translators at once, and compare them.

    By default 18: three data sets (the first TABLE, the others, all) by two widths by three losses.
    A sweep that was stopped continues where it stopped if it is started again in the same way.
    `accelerate launch -m clip2clap sweep ...` spreads it over processes or GPUs.
    """
    for table in (read.table, *(options.plus or ())):
        check_exists(table, "table")
    check_device(run.device, None)

    from clip2clap.training.config import TrainingConfig

    values = _grid_values(grid)
    settings = {"source": "clip", "target": "clap", "patience": 10, **config_settings(options)}
    plus, trackers = settings.pop("plus", ()), settings.pop("trackers", ())
    base = TrainingConfig.reference(**settings)

    from clip2clap.training.sweep.grid import SweepGrid
    from clip2clap.training.sweep.run import sweep as run_sweep

    output = run.output or read.table.absolute().with_name(f"{read.table.absolute().name}-sweep")
    with share_bar(Console(stderr=True), "Training") as advance:

        def on_progress(state: "SweepProgress") -> None:
            advance(state.done, f"{state.training} of {state.models} models")

        results = run_sweep(
            read.table,
            output,
            plus=plus,
            grid=SweepGrid(**values),
            base=base,
            device=None if run.device == "auto" else str(choose_device(run.device)),
            overwrite=run.overwrite,
            trackers=trackers,
            on_progress=on_progress,
        )
    if not _is_main_process():
        return
    if run.as_json:
        typer.echo(json.dumps([result.row() for result in results], indent=2))
        return
    out = plain_console()
    out.print(_table(results, base.monitor))
    out.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _grid_values(grid: GridOptions) -> dict[str, tuple[Any, ...]]:
    """Return the arguments of `SweepGrid` for the options that were given."""
    converters: dict[str, Callable[[str], Any]] = {
        "hidden_size": int,
        "loss": str,
        "learning_rate": float,
        "batch_size": int,
        "temperature": float,
        "epochs": int,
        "seed": int,
        "noise": float,
        "center": {"no": False, "yes": True}.__getitem__,
    }
    values = {}
    for name, convert in converters.items():
        given = getattr(grid, name)
        if given is None:
            continue
        given = "no,yes" if (name, given) == ("center", "both") else given
        try:
            values[name] = tuple(convert(part.strip()) for part in given.split(","))
        except (ValueError, KeyError) as error:
            what = "no, yes or no,yes" if name == "center" else "numbers separated by commas"
            raise UserError(f"expected {what}, got {given!r}.", param=name) from error
    return values


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process


def _table(results: "list[SweepResult]", monitor: str) -> Table:
    """Return the models, the best first, with their results on the tables' held-out pairs."""
    tables = list(dict.fromkeys(table for result in results for table in result.held_out))
    table = Table(box=None, pad_edge=False)
    for column in ("model", monitor, "recall at 10", *(f"on {name}" for name in tables), "epochs"):
        table.add_column(column, justify="left" if column == "model" else "right")

    def score(result: "SweepResult") -> float:
        return -1.0 if result.report is None else result.report.metrics[monitor]

    for result in sorted(results, key=score, reverse=True):
        report = result.report
        if report is None:
            table.add_row(result.name, "diverged")
            continue
        table.add_row(
            result.name,
            f"{report.metrics[monitor]:.3f}",
            f"{report.metrics['recall_at_10']:.3f}",
            *(f"{result.held_out[name]['recall_at_10']:.3f}" for name in tables),
            f"{report.best_epoch} of {report.epochs_run}",
        )
    return table
