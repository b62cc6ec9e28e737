"""The verb `fit`."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clip2clap.cli.checks import check_device, check_model_folder
from clip2clap.cli.evaluate import measure
from clip2clap.cli.extract import (
    embed_with_bar,
    make_plan,
    open_rows,
    published_name,
    show_extraction,
)
from clip2clap.cli.options.data import Evaluate, Fit
from clip2clap.cli.progress import RunReport
from clip2clap.cli.train import train_with_bar, training_lines
from clip2clap.core.errors import UserError
from clip2clap.core.presets import DEFAULT_CLIP, DEFAULT_GENERATOR, check_name


def fit(options: Fit) -> None:
    """Make a translator for a generator, from the captions of a data set.

    Embeds the captions with the CLIP and with the CLAP inside the generator's own checkpoint,
    trains a translator on the pairs, and evaluates it on held-out pairs. The table of
    pairs is written to OUTPUT-table, the evaluation to OUTPUT-report.

    A run that was stopped continues where it stopped if it is started again in the same way.
    """
    published = published_name([options.dataset], options)
    output = options.output or Path(f"{Path(options.dataset).stem}-translator")
    check_model_folder(output)
    generator = "demo" if options.demo else options.generator or DEFAULT_GENERATOR
    clip = "demo" if options.demo else options.clip or DEFAULT_CLIP
    check_name(generator, "clap", param="generator")
    check_name(clip, "clip", param="clip")
    check_device(options.device, options.dtype)
    plan = make_plan(("clip_text", "clap_text"), clip=clip, clap=generator, options=options)

    from clip2clap.training.config import TrainingConfig

    architecture: Any = options.architecture or "mlp"
    config = TrainingConfig(seed=options.seed, architecture=architecture)
    report = RunReport(options)
    rows = open_rows(published, [options.dataset], options, plan.wanted)
    table = output.with_name(f"{output.name}-table")
    extraction = embed_with_bar(rows, table, plan, limit=options.limit)
    show_extraction(extraction, report)
    if not extraction.rows:
        raise UserError(
            f"No row of {options.dataset} could be embedded; {table}/failures.parquet has the "
            "reasons."
        )
    training = train_with_bar(table, output, config, options)
    evaluation: Any = {"inputs": [str(output)], "table": table, "seed": options.seed}
    folder = output.with_name(f"{output.name}-report")
    _, page, _ = measure(Evaluate(**evaluation, output=folder))
    command = ["clip2clap", "image-to-audio", "IMAGE", "--generator", generator]
    report.show(
        *training_lines(training),
        f"Report: {page}",
        f"Next: {shlex.join([*command, '--translator', str(output)])}",
    )
    report.end(
        {"extraction": asdict(extraction), "training": training.to_dict(), "report": str(page)}
    )
