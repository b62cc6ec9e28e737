"""`clip2clap train`."""

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
    OverwriteTranslator,
    PairTable,
    Seed,
    Validation,
    check_seed,
    choose_device,
)
from clip2clap.cli.progress import share_bar
from clip2clap.core.presets import DECODER_PRESETS, GENERATOR_PRESETS

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


def train(
    table: PairTable,
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
    item: Item = None,
    validation: Validation = 0.1,
    model: Annotated[
        Literal["mlp", "residual", "prior", "ridge", "procrustes"],
        typer.Option(
            help="mlp, residual and prior (which draws many answers) are trained, the others are "
            "fitted in closed form.",
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
    condition_dropout: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Pairs of which the prior isn't told the source, so that it can be guided.",
            rich_help_panel="Translator",
        ),
    ] = 0.1,
    prior_guidance_scale: Annotated[
        float,
        typer.Option(
            metavar="X",
            help="How closely the prior is to follow the source; 1 is no guidance.",
            rich_help_panel="Translator",
        ),
    ] = 1.0,
    alpha: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Penalty of ridge, and of the ridge that an mlp starts from; by default the best "
            "of several on held-out pairs.",
            rich_help_panel="Translator",
        ),
    ] = None,
    centre: Annotated[
        bool | None,
        typer.Option(
            "--centre/--no-centre",
            help="Take each side's mean off first; by default for ridge and procrustes only.",
            rich_help_panel="Translator",
        ),
    ] = None,
    scale: Annotated[
        bool,
        typer.Option(
            help="Whether ridge and procrustes divide each dimension by its deviation first.",
            rich_help_panel="Translator",
        ),
    ] = False,
    init_from: Annotated[
        str | None,
        typer.Option(
            metavar="TRANSLATOR",
            help="Go on from this one, such as to tune one of captions on a few true pairs.",
            rich_help_panel="Translator",
        ),
    ] = None,
    recipe: Annotated[
        Literal["fast", "reference"],
        typer.Option(
            help="fast: starts from ridge, large batches, a rate that falls, early "
            "stopping; reference: Adam at 1e-3, batches of 64, 50 epochs. The options below "
            "override either.",
            rich_help_panel="Training",
        ),
    ] = "fast",
    loss: Annotated[
        str,
        typer.Option(
            metavar="LOSS",
            help="cosine, mse, contrastive, infonce or bank, or a sum as cosine:1+bank:0.1.",
            rich_help_panel="Training",
        ),
    ] = "cosine",
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Of contrastive (0.5 by default), infonce and bank (0.07).",
            rich_help_panel="Training",
        ),
    ] = None,
    learn_temperature: Annotated[
        bool,
        typer.Option(
            "--learn-temperature", help="Let the loss adjust it.", rich_help_panel="Training"
        ),
    ] = False,
    start: Annotated[
        Literal["ridge", "random"] | None,
        typer.Option(
            help="What an mlp starts as: the linear map that ridge fits, or random weights. By "
            "default ridge, in the reference's recipe random.",
            rich_help_panel="Training",
        ),
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Deviation of the noise on each value of the source while training or fitting "
            "ridge, so that a translator of captions takes pictures. By default 0.05 on captions, "
            "0 elsewhere and in the reference's recipe.",
            rich_help_panel="Training",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="At most; 20 by default, 50 in the reference's recipe.",
            rich_help_panel="Training",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Stop after N epochs without a better --monitor; 0 never stops early. 10 by "
            "default, 0 in the reference's recipe.",
            rich_help_panel="Training",
        ),
    ] = None,
    monitor: Monitor = "mrr",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Pairs a step; by default by the number of pairs, up to 2048.",
            rich_help_panel="Training",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="X",
            help="Adam's highest rate; by default by the batch size.",
            rich_help_panel="Training",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: OverwriteTranslator = False,
    as_json: Json = False,
) -> None:
    """Train a translator on pairs of embeddings.

    A run that was stopped continues where it stood, if it is started again as before.
    """
    check_seed(seed)
    torch_device = choose_device(device)

    from clip2clap.training.config import TrainingConfig

    options = {
        "init": start,
        "noise": noise,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "epochs": epochs,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if patience is not None:
        given["patience"] = patience or None
    make = TrainingConfig.reference if recipe == "reference" else TrainingConfig
    config = make(
        source=source,
        target=target,
        item=item,
        architecture=model,
        hidden_size=hidden,
        blocks=blocks,
        dropout=dropout,
        condition_dropout=condition_dropout,
        prior_guidance_scale=prior_guidance_scale,
        alpha=alpha,
        center=centre,
        scale=scale,
        init_from=init_from,
        loss=loss,
        temperature=temperature,
        learn_temperature=learn_temperature,
        monitor=monitor,
        validation=validation,
        seed=seed,
        **given,
    )
    report = train_with_bar(
        table,
        output,
        config,
        device=None if device == "auto" else str(torch_device),
        overwrite=overwrite,
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    print_report(report)
    out = Console(highlight=False, markup=False)
    out.print(f"Next: {_next_command(output)}", soft_wrap=True)


def train_with_bar(
    table: Path,
    output: Path,
    config: "TrainingConfig",
    *,
    device: str | None,
    overwrite: bool,
) -> "TrainingReport":
    """Train under a progress bar; the arguments are `training.train`'s."""
    from clip2clap.training.trainer import train as train_translator

    console = Console(stderr=True)
    with share_bar(console, "Training") as advance:

        def show(state: "TrainingProgress") -> None:
            best = ""
            if state.best is not None:
                best = f", best {state.best.validation[config.monitor]:.3f}"
            epochs = state.epoch - 1 + state.step / state.steps
            advance(epochs / config.epochs, f"Epoch {state.epoch}{best}")

        return train_translator(
            table, output, config, device=device, overwrite=overwrite, on_progress=show
        )


def print_report(report: "TrainingReport") -> None:
    """Print a run's held-out figures and its story."""
    out = Console(highlight=False, markup=False)
    out.print(_table(report))
    out.print(_story(report), soft_wrap=True)


def _next_command(translator: Path) -> str:
    """Say how to use a translator, with what its target space is from if that is known."""
    from clip2clap.translator.checkpoint import read_config

    target = read_config(translator)["target_space"] or {}
    named = target.get("model_id")
    if target.get("family") == "clip":
        decoders = [
            preset.id
            for preset in DECODER_PRESETS.values()
            if named in (preset.id, preset.repo_id, preset.companions.get("clip"))
        ]
        command = "clip2clap audio-to-image SOUND -o pictures"
        return f"{command} --model {(decoders or ['DECODER'])[0]} --translator {translator}"
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
