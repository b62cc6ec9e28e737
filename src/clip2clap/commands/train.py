"""`clip2clap train`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from clip2clap.commands.options import Json, Seed, check_seed, choose_device
from clip2clap.presets import GENERATOR_PRESETS

if TYPE_CHECKING:
    from clip2clap.training import TrainingProgress, TrainingReport

_SHOWN_METRICS = {
    "cosine": "cosine similarity",
    "recall_at_1": "recall at 1",
    "recall_at_5": "recall at 5",
    "recall_at_10": "recall at 10",
    "mrr": "mean reciprocal rank",
    "median_rank": "median rank",
}


def train(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A folder of paired embeddings.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where the translator is written."),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Map from here, as clip_text; by default the only CLIP column.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Map to here, as clap_text; by default the only CLAP column.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    item: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Rows equal here stay on one side of the split; by default the item, file, url, "
            "caption or id.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Share of the items held out, if there is no split column.",
            rich_help_panel="Pairs",
        ),
    ] = 0.1,
    model: Annotated[
        Literal["mlp", "residual", "ridge", "procrustes"],
        typer.Option(
            help="mlp and residual are trained, the others are fitted in closed form.",
            rich_help_panel="Translator",
        ),
    ] = "mlp",
    hidden: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Width of the mlp's hidden layers or of the residual blocks.",
            rich_help_panel="Translator",
        ),
    ] = 512,
    blocks: Annotated[
        int,
        typer.Option(metavar="N", help="Number of residual blocks.", rich_help_panel="Translator"),
    ] = 3,
    dropout: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Hidden values of a residual block that training leaves out.",
            rich_help_panel="Translator",
        ),
    ] = 0.1,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Ridge's penalty; by default the best of several on held-out pairs.",
            rich_help_panel="Translator",
        ),
    ] = None,
    centre: Annotated[
        bool,
        typer.Option(
            help="Whether ridge and procrustes take the means off first.",
            rich_help_panel="Translator",
        ),
    ] = True,
    scale: Annotated[
        bool,
        typer.Option(
            help="Whether ridge and procrustes divide each dimension by its deviation first.",
            rich_help_panel="Translator",
        ),
    ] = False,
    loss: Annotated[
        Literal["cosine", "mse", "contrastive", "infonce"],
        typer.Option(help="What training makes small.", rich_help_panel="Training"),
    ] = "cosine",
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Of contrastive (0.5 by default) and infonce (0.07).",
            rich_help_panel="Training",
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(metavar="N", help="At most.", rich_help_panel="Training")
    ] = 50,
    patience: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Stop after N epochs without a better --monitor; 0 never stops early.",
            rich_help_panel="Training",
        ),
    ] = 10,
    monitor: Annotated[
        Literal["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "cosine"],
        typer.Option(
            help="The held-out figure that picks the epoch to keep.", rich_help_panel="Training"
        ),
    ] = "mrr",
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Pairs a step.", rich_help_panel="Training")
    ] = 64,
    learning_rate: Annotated[
        float,
        typer.Option("--lr", metavar="X", help="Adam's rate.", rich_help_panel="Training"),
    ] = 1e-3,
    seed: Seed = 0,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda or mps.", rich_help_panel="Running")
    ] = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace another translator in FOLDER.", rich_help_panel="Running"
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a translator on pairs of embeddings.

    A run that was stopped continues where it stood, if it is started again as before.
    """
    check_seed(seed)
    torch_device = choose_device(device)

    from clip2clap.training import TrainingConfig
    from clip2clap.training import train as train_translator

    config = TrainingConfig(
        source=source,
        target=target,
        item=item,
        model=model,
        hidden=hidden,
        blocks=blocks,
        dropout=dropout,
        alpha=alpha,
        centre=centre,
        scale=scale,
        loss=loss,
        temperature=temperature,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience or None,
        monitor=monitor,
        validation=validation,
        seed=seed,
    )
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("Training", total=epochs)

        def show(state: "TrainingProgress") -> None:
            best = "" if state.best is None else f", best {state.best.validation[monitor]:.3f}"
            progress.update(
                task,
                completed=state.epoch - 1 + state.step / state.steps,
                description=f"Epoch {state.epoch}{best}",
            )

        report = train_translator(
            table,
            output,
            config,
            device=None if device == "auto" else str(torch_device),
            overwrite=overwrite,
            on_progress=show,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    out = Console(highlight=False, markup=False)
    out.print(_table(report))
    out.print(_story(report), soft_wrap=True)
    out.print(f"Next: {_next_command(output)}", soft_wrap=True)


def _next_command(translator: Path) -> str:
    """Say how to use a translator, with the generator that its target space is from if known."""
    from clip2clap.translator import read_config

    target = read_config(translator)["target_space"] or {}
    named = target.get("model_id")
    presets = GENERATOR_PRESETS.values()
    generators = {name for preset in presets for name in (preset.id, preset.repo_id)}
    model = named if named in generators else "GENERATOR"
    return f"clip2clap image-to-audio PHOTO -o sounds --model {model} --translator {translator}"


def _table(report: "TrainingReport") -> Table:
    """Lay the held-out figures beside what chance and a constant answer give."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"on {report.pairs[report.measured_on]} {report.measured_on} pairs")
    for column in ("translator", "shuffled pairs", "mean vector"):
        table.add_column(column, justify="right")
    for name, label in _SHOWN_METRICS.items():
        if name in report.metrics:
            figures = (report.metrics, report.shuffled_pairs, report.mean_vector)
            digits = 1 if name == "median_rank" else 3
            table.add_row(label, *(f"{column[name]:.{digits}f}" for column in figures))
    return table


def _story(report: "TrainingReport") -> str:
    where = f"{report.source_column} -> {report.target_column}, {report.pairs['train']} pairs"
    if report.best_epoch is None:
        return f"{report.output}: {where}, fitted in {report.seconds:.1f} s."
    stopped = ", stopped early" if report.stopped_early else ""
    return (
        f"{report.output}: {where}, epoch {report.best_epoch} of {report.epochs_run} kept{stopped} "
        f"({report.seconds:.1f} s)."
    )
