"""`clip2clap sweep`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.options import (
    Device,
    Item,
    Json,
    Monitor,
    PairTable,
    Validation,
    choose_device,
    require,
)
from clip2clap.cli.progress import share_bar

if TYPE_CHECKING:
    from clip2clap.training.report import SweepResult
    from clip2clap.training.sweep.grid import SweepProgress


def _values(convert: Any, option: str, text: str) -> tuple[Any, ...]:
    """Read an option's values, separated by commas."""
    values = []
    for part in text.split(","):
        try:
            values.append(convert(part.strip()))
        except ValueError:
            require(False, option, f"expected numbers separated by commas, got {text!r}.")
    return tuple(values)


def sweep(
    table: PairTable,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Gets a folder a translator, and a report."
        ),
    ],
    plus: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TABLE",
            help="One more table; give it again for others. Models are trained on the first, on "
            "these together, and on all.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SIDE",
            help="clip or clap, or a column such as clip_text.",
            rich_help_panel="Pairs",
        ),
    ] = "clip",
    to: Annotated[
        str,
        typer.Option(
            metavar="SIDE",
            help="clap or clip, or a column such as clap_text.",
            rich_help_panel="Pairs",
        ),
    ] = "clap",
    item: Item = None,
    validation: Validation = 0.1,
    hidden: Annotated[
        str, typer.Option(metavar="N,…", help="Widths.", rich_help_panel="Grid")
    ] = "256,512",
    loss: Annotated[
        str,
        typer.Option(
            metavar="LOSS,…",
            help="cosine, mse, contrastive, infonce, bank, or sums as cosine:1+bank:0.1.",
            rich_help_panel="Grid",
        ),
    ] = "cosine,mse,contrastive",
    learning_rate: Annotated[
        str, typer.Option("--lr", metavar="X,…", help="Adam's rates.", rich_help_panel="Grid")
    ] = "1e-3",
    batch_size: Annotated[
        str, typer.Option(metavar="N,…", help="Pairs a step.", rich_help_panel="Grid")
    ] = "64",
    temperature: Annotated[
        str | None,
        typer.Option(
            metavar="X,…",
            help="Of contrastive (0.5 by default), infonce and bank (0.07).",
            rich_help_panel="Grid",
        ),
    ] = None,
    epochs: Annotated[
        str, typer.Option(metavar="N,…", help="At most.", rich_help_panel="Grid")
    ] = "50",
    seeds: Annotated[
        str,
        typer.Option(metavar="N,…", help="Of weights, order and split.", rich_help_panel="Grid"),
    ] = "0",
    noise: Annotated[
        str,
        typer.Option(
            metavar="X,…", help="Deviations of the source's noise.", rich_help_panel="Grid"
        ),
    ] = "0",
    centre: Annotated[
        Literal["no", "yes", "both"],
        typer.Option(help="Take each side's mean off first.", rich_help_panel="Grid"),
    ] = "no",
    schedule: Annotated[
        Literal["constant", "cosine"],
        typer.Option(help="How the rate falls.", rich_help_panel="Training"),
    ] = "constant",
    patience: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="A model stops after N epochs without a better --monitor; 0 never stops early.",
            rich_help_panel="Training",
        ),
    ] = 10,
    monitor: Monitor = "mrr",
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Log the curves there too, such as tensorboard; may be given again.",
            rich_help_panel="Running",
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace other translators in FOLDER.", rich_help_panel="Running"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train many translators at once, and compare them.

    By default the reference's 18: three data sets (the first TABLE, the others, all) by two widths
    by three losses. A sweep that was stopped continues where it stood, if it is started again as
    before. `accelerate launch -m clip2clap sweep …` spreads it over processes or GPUs.
    """
    torch_device = choose_device(device)

    from clip2clap.training.config import TrainingConfig
    from clip2clap.training.sweep.grid import SweepGrid
    from clip2clap.training.sweep.grid import sweep as run_sweep

    grid = SweepGrid(
        hidden_size=_values(int, "--hidden", hidden),
        loss=tuple(part.strip() for part in loss.split(",")),
        learning_rate=_values(float, "--lr", learning_rate),
        batch_size=_values(int, "--batch-size", batch_size),
        temperature=(None,)
        if temperature is None
        else _values(float, "--temperature", temperature),
        epochs=_values(int, "--epochs", epochs),
        seeds=_values(int, "--seeds", seeds),
        noise=_values(float, "--noise", noise),
        center={"no": (False,), "yes": (True,), "both": (False, True)}[centre],
    )
    base = TrainingConfig.reference(
        source=origin,
        target=to,
        item=item,
        validation=validation,
        schedule=schedule,
        patience=patience or None,
        monitor=monitor,
    )
    console = Console(stderr=True)
    with share_bar(console, "Training") as advance:

        def show(state: "SweepProgress") -> None:
            advance(state.done, f"{state.training} of {state.models} models")

        results = run_sweep(
            table,
            output,
            plus=plus or (),
            grid=grid,
            base=base,
            device=None if device == "auto" else str(torch_device),
            overwrite=overwrite,
            trackers=tracker or (),
            on_progress=show,
        )
    if not _is_main_process():
        return
    if as_json:
        typer.echo(json.dumps([result.row() for result in results], indent=2))
        return
    out = Console(highlight=False, markup=False)
    out.print(_table(results, monitor))
    out.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _is_main_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process


def _table(results: "list[SweepResult]", monitor: str) -> Table:
    """Lay the models out, the best first, beside the tables' held-out pairs."""
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
