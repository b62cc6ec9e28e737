"""The verb `sweep`."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from clip2clap.cli.checks import check_device, check_exists, check_model_folder, choose_device
from clip2clap.cli.options.training import PairsAndMonitor, Sweep
from clip2clap.cli.progress import RunReport, is_main_process, plain_table, share_bar
from clip2clap.cli.train import config_settings
from clip2clap.core.errors import UserError

# What the names of tables may take of 80 columns.
_MOST_CHARACTERS = 24


def sweep(options: Sweep) -> None:
    """Train many translators at once, and compare them.

    By default 18: three data sets (the first TABLE, the others, all) by two widths by three losses.
    A sweep that was stopped continues where it stopped if it is started again in the same way.
    `accelerate launch -m clip2clap sweep ...` spreads it over processes or GPUs.
    """
    for each in (options.table, *(options.plus or ())):
        check_exists(each, "table")
    check_device(options.device, None)

    from clip2clap.training.config import TrainingConfig

    values = _grid_values(options)
    given = config_settings(options, PairsAndMonitor)
    base = TrainingConfig.reference(**{"source": "clip", "target": "clap", "patience": 10, **given})

    from clip2clap.training.sweep.grid import SweepGrid
    from clip2clap.training.sweep.run import sweep as run_sweep

    folder = options.table.absolute()
    output = options.output or folder.with_name(f"{folder.name}-sweep")
    check_model_folder(output)
    report = RunReport(options)
    with share_bar("Training") as advance:
        results = run_sweep(
            options.table,
            output,
            plus=options.plus or (),
            grid=SweepGrid(**values),
            base=base,
            device=None if options.device == "auto" else str(choose_device(options.device)),
            overwrite=options.overwrite,
            trackers=options.tracker or (),
            on_progress=lambda state: advance(
                state.done, f"{state.training} of {state.models} models"
            ),
        )
    if not is_main_process():
        return
    table, notes = _table(results, base.monitor)
    report.show(table, *notes, f"Report: {output / 'report.html'}")
    report.end([result.row() for result in results])


def _grid_values(options: Sweep) -> dict[str, tuple[Any, ...]]:
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
        given = getattr(options, name)
        if given is None:
            continue
        given = "no,yes" if (name, given) == ("center", "both") else given
        try:
            values[name] = tuple(convert(part.strip()) for part in given.split(","))
        except (ValueError, KeyError) as error:
            what = "no, yes or no,yes" if name == "center" else "numbers separated by commas"
            raise UserError(f"expected {what}, got {given!r}.", param=name) from error
    return values


def _table(results: list[Any], monitor: str) -> tuple[Table, list[str]]:
    """Return the models, the best first, with their results on the tables' held-out pairs.

    Long names of tables are below the table.
    """
    tables = list(dict.fromkeys(table for result in results for table in result.held_out))
    fits = sum(len(f"  on {name}") for name in tables) <= _MOST_CHARACTERS
    titles = [f"on {name if fits else number}" for number, name in enumerate(tables, 1)]
    table = plain_table("model", monitor, "recall at 10", *titles, "epochs")

    def score(result: Any) -> float:
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
    notes = [f"{title}: {name}" for title, name in zip(titles, tables, strict=True)]
    return table, [] if fits else notes
