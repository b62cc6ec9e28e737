"""`clip2clap fit`."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from clip2clap.cli.evaluate import write_report
from clip2clap.cli.extract import (
    PUBLISHED,
    dtype_and_device,
    embed_with_bar,
    extraction_facts,
    open_rows,
    print_extraction,
    whole_path,
)
from clip2clap.cli.options import (
    Captions,
    DataFolder,
    DataSplit,
    DemoModels,
    Device,
    EncoderDtype,
    Json,
    OverwriteTranslator,
    Seed,
    check_seed,
    require,
)
from clip2clap.cli.train import print_report, train_with_bar

_DATA = "Data set"
_MODELS = "Models"
_RUNNING = "Running"


def fit(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where the translator is written; the table of pairs goes into FOLDER-table, the "
            "evaluation into FOLDER-report.",
        ),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="audiocaps, conceptual-captions or wit; or what else extract takes as SOURCE.",
            rich_help_panel=_DATA,
        ),
    ] = "audiocaps",
    split: DataSplit = "train",
    captions: Captions = None,
    data: DataFolder = Path("."),
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Only the first rows.", show_default=False, rich_help_panel=_DATA
        ),
    ] = None,
    generator: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What the translator is for: a preset, a hub id or a folder.",
            rich_help_panel=_MODELS,
        ),
    ] = "audioldm-s-full-v2",
    clip: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What is to see the pictures: a preset, a hub id or a folder.",
            rich_help_panel=_MODELS,
        ),
    ] = "clip-vit-base-patch32",
    demo: DemoModels = False,
    dtype: EncoderDtype = "fp32",
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Captions encoded at once; by default 64.", rich_help_panel=_RUNNING
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: OverwriteTranslator = False,
    as_json: Json = False,
) -> None:
    """Make a translator for a generator: from a data set's captions to a folder to generate with.

    Embeds the captions with the CLIP and with the CLAP inside the generator's own checkpoint,
    trains the default translator on the pairs, and evaluates it on pairs it has not seen.

    A run that was stopped continues where it stood, if it is started again as before.
    """
    check_seed(seed)
    require(limit is None or limit > 0, "--limit", f"expected 1 or more, got {limit}.")
    published = dataset if dataset in PUBLISHED else None
    require(published is not None or not captions, "--captions", "name the file as --dataset.")
    require(not output.is_file(), "--output", f"{output} is a file; name a folder.")
    if demo:
        generator = clip = "demo"
    weights_dtype, on = dtype_and_device(dtype, device)

    from clip2clap.core.errors import UserError
    from clip2clap.embeddings.extraction.plan import PAIRS, EncoderPlan
    from clip2clap.training.config import TrainingConfig

    plan = EncoderPlan(
        PAIRS["caption-caption"],
        clip=whole_path(clip),
        clap=whole_path(generator),
        device=on,
        weights_dtype=weights_dtype,
        batch_size=batch_size,
    )
    rows = open_rows(
        published,
        [dataset],
        captions=captions or [],
        data=data,
        split=split,
        wanted=plan.wanted,
        format="auto",
        fields={},
    )
    table = output.with_name(f"{output.name}-table")
    extraction = embed_with_bar(rows, table, plan, limit=limit)
    if not as_json:
        print_extraction(extraction)
    if not extraction.rows:
        raise UserError(
            f"Of {dataset} no row could be embedded; {table}/failures.parquet says why."
        )
    report = train_with_bar(
        table,
        output,
        TrainingConfig(seed=seed),
        device=None if device == "auto" else on,
        overwrite=overwrite,
    )
    page = write_report(output, table, output.with_name(f"{output.name}-report"), seed=seed)
    if as_json:
        facts = {
            "extraction": extraction_facts(extraction),
            "training": report.to_dict(),
            "report": str(page),
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    print_report(report)
    out = Console(highlight=False, markup=False)
    out.print(f"The whole report: {page}", soft_wrap=True)
    command = ["clip2clap", "image-to-audio", "PHOTO", "--generator", generator]
    out.print(f"Next: {shlex.join([*command, '--translator', str(output)])}", soft_wrap=True)
