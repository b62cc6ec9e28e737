"""The verb `fit`."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import typer

from clip2clap.cli.checks import check_device, require
from clip2clap.cli.evaluate import write_report
from clip2clap.cli.extract import (
    DEFAULT_CLIP,
    DEFAULT_GENERATOR,
    embed_with_bar,
    extraction_facts,
    make_plan,
    open_rows,
    print_extraction,
    published_name,
)
from clip2clap.cli.options.common import (
    BatchSize,
    Clip,
    Device,
    Dtype,
    Generator,
    Json,
    Output,
    Overwrite,
    Seed,
)
from clip2clap.cli.options.data import DataOptions, DatasetOption, Demo
from clip2clap.cli.progress import plain_console
from clip2clap.cli.train import print_report, train_with_bar
from clip2clap.core.presets import check_name


@dataclass(frozen=True, kw_only=True)
class FitData(DatasetOption, DataOptions):
    """Data set of `fit`."""


@dataclass(frozen=True, kw_only=True)
class FitModels(Generator, Clip, Demo, Dtype, Device, BatchSize):
    """Models of `fit`."""


@dataclass(frozen=True, kw_only=True)
class FitRun(Output, Overwrite, Seed, Json):
    """Output of `fit`."""


def fit(data: FitData, models: FitModels, run: FitRun) -> None:
    """Make a translator for a generator, from the captions of a data set.

    Embeds the captions with the CLIP and with the CLAP inside the generator's own checkpoint,
    trains the default translator on the pairs, and evaluates it on held-out pairs. The table of
    pairs is written to OUTPUT-table, the evaluation to OUTPUT-report.

    A run that was stopped continues where it stopped if it is started again in the same way.
    """
    published = published_name([data.dataset], data)
    output = run.output or Path(f"{Path(data.dataset).stem}-translator")
    require(not output.is_file(), "output", f"{output} is a file, not a folder.")
    generator = "demo" if models.demo else models.generator or DEFAULT_GENERATOR
    clip = "demo" if models.demo else models.clip or DEFAULT_CLIP
    check_name(generator, "clap", param="generator")
    check_name(clip, "clip", param="clip")
    check_device(models.device, models.dtype)
    plan = make_plan(("clip_text", "clap_text"), clip=clip, clap=generator, encoders=models)

    from clip2clap.core.errors import UserError
    from clip2clap.training.config import TrainingConfig

    rows = open_rows(published, [data.dataset], data, plan.wanted)
    table = output.with_name(f"{output.name}-table")
    extraction = embed_with_bar(rows, table, plan, limit=data.limit)
    if not run.as_json:
        print_extraction(extraction)
    if not extraction.rows:
        raise UserError(
            f"No row of {data.dataset} could be embedded; {table}/failures.parquet has the reasons."
        )
    config = TrainingConfig(seed=run.seed)
    report = train_with_bar(table, output, config, device=models.device, overwrite=run.overwrite)
    page = write_report(output, table, output.with_name(f"{output.name}-report"), seed=run.seed)
    if run.as_json:
        facts = {
            "extraction": extraction_facts(extraction),
            "training": report.to_dict(),
            "report": str(page),
        }
        typer.echo(json.dumps(facts, indent=2))
        return
    print_report(report)
    out = plain_console()
    out.print(f"Report: {page}", soft_wrap=True)
    command = ["clip2clap", "image-to-audio", "IMAGE", "--generator", generator]
    out.print(f"Next: {shlex.join([*command, '--translator', str(output)])}", soft_wrap=True)
