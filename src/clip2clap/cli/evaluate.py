"""The verb `evaluate`."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_device, check_exists, check_translator, require
from clip2clap.cli.measuring import (
    level_of,
    load_translators,
    measure_embeddings,
    measure_generation,
)
from clip2clap.cli.options.data import Evaluate
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, plain_table
from clip2clap.core.presets import check_name

_SPLITS = ("auto", "test", "validation", "train", "held-out", "all")
_OF_FILES = ("image_dir", "audio_dir", "clap", "classifier", "back", "round_trip", "contact_sheet")
_OF_FILES += ("captioner", "text_model")


def evaluate(options: Evaluate) -> None:
    """Evaluate translators against chance: on embedding pairs, generated audio or images, or both.

    Translators from CLIP to CLAP generate audio from --image-dir, those from CLAP to CLIP images
    from --audio-dir, or from the table's audio.

    With --compare, reports which differences between evaluations are significant.
    """
    if options.compare:
        _compare(options)
        return
    _check(options)
    report = RunReport(options)
    results, page, level = measure(options)
    report.show(*_score_tables(results, level), f"Report: {page}")
    report.end(results.metrics)


def measure(options: Evaluate) -> tuple[Any, Path, str]:
    """Evaluate translators, and write the results and the report.

    Returned are the results, the page's path, and `audio` or `images`: what is generated.
    """
    from clip2clap.evaluation.report.page import Illustrations, write_evaluation_page
    from clip2clap.evaluation.results import join_results

    output = options.output or Path("clip2clap-evaluate")
    if options.output is None and options.table is not None:
        output = options.table.absolute().with_name(f"{options.table.absolute().name}-report")
    translators = load_translators(options.inputs)
    level = level_of(translators)
    if options.pipeline is not None:
        (_check_images if level == "images" else _check_audio)(options)
    keep_others_out(output)
    rows = embeddings = generated = None
    illustrations = Illustrations()
    if options.table is not None:
        rows, embeddings, illustrations = measure_embeddings(translators, level, options)
    if options.pipeline is not None:
        generated, illustrations = measure_generation(
            translators, level, illustrations, output, options, rows
        )
    results = join_results(seed=options.seed, embeddings=embeddings, **{level: generated})
    with Console(stderr=True).status("Writing the report"):
        results.write(output)
        return results, write_evaluation_page(results, output, illustrations), level


def _check(options: Evaluate) -> None:
    require(
        options.table or options.image_dir or options.audio_dir,
        "table",
        "name the pairs to evaluate on, or --pipeline and --image-dir or --audio-dir to evaluate "
        "what is generated from these.",
    )
    require(
        options.pipeline is not None or not any(getattr(options, name) for name in _OF_FILES),
        "pipeline",
        "--image-dir, --audio-dir, --clap, --classifier, --back, --round-trip, --captioner, "
        "--text-model and --contact-sheet are about generated audio or images. Name the pipeline "
        "that generates them.",
    )
    for param in ("table", "image_dir", "audio_dir"):
        folder = getattr(options, param)
        require(folder is None or folder.is_dir(), param, f"{folder} is not a folder.")
    for name in options.inputs:
        check_translator(name, "inputs")
    check_translator(options.back, "back")
    split = options.split or "auto"
    require(split in _SPLITS, "split", f"expected one of {', '.join(_SPLITS)}, got {split!r}.")
    check_device(options.device, options.dtype)
    for name in options.captioner or ():
        check_name(name, "captioner", param="captioner")
    if options.text_model is not None:
        check_name(options.text_model, "text_model", param="text_model")


def _check_images(options: Evaluate) -> None:
    require(
        options.audio_dir or options.table,
        "audio_dir",
        "the translators map from CLAP to CLIP, so images are generated from audio. Name its "
        "folder, or a --table of it.",
    )
    for param, reason in (
        ("image_dir", "a table's audio is compared with the table's own images"),
        ("contact_sheet", "a contact sheet shows audio files"),
    ):
        needed = f"{reason}. Name the folder of --audio-dir."
        require(options.audio_dir or not getattr(options, param), param, needed)
    for param, reason in (
        ("back", "the CLIP-score is of audio"),
        ("duration_s", "it is the length of generated audio"),
    ):
        unused = f"{reason}, and these translators, from CLAP to CLIP, generate images."
        require(getattr(options, param) is None, param, unused)


def _check_audio(options: Evaluate) -> None:
    require(
        options.image_dir is not None,
        "image_dir",
        "the translators map from CLIP to CLAP, so audio is generated from images. Name their "
        "folder. Translators of the opposite direction, such as demo-back, generate images from "
        "--audio-dir.",
    )
    require(
        options.text_model is None,
        "text_model",
        "it makes images, and these translators, from CLIP to CLAP, generate audio.",
    )
    require(
        not options.contact_sheet,
        "contact_sheet",
        "it shows images, and these translators, from CLIP to CLAP, generate audio.",
    )


def _compare(options: Evaluate) -> None:
    count = len(options.inputs)
    require(count <= 2, "compare", f"expected one or two files, got {count}.")
    for path in options.inputs:
        check_exists(path, "inputs")

    from clip2clap.evaluation.comparison import compare_results
    from clip2clap.evaluation.results import Results

    report = RunReport(options)
    found = compare_results(*map(Results.read, options.inputs), seed=options.seed)
    significant = sum(one.is_significant for one in found)
    summary = f"{significant} of {len(found)} differences are significant."
    report.show(_difference_table(found), summary)
    report.end([{**asdict(one), "is_significant": one.is_significant} for one in found])


def _score_tables(results: Any, level: str) -> Iterator[Table]:
    """Yield a table for each part of the results, each translator above its control."""
    from clip2clap.evaluation.report import tables
    from clip2clap.evaluation.results import retrieval_direction

    def table(title: str, name: str, rows: list[Any]) -> Table:
        columns = [one for one in tables.measured_columns(name, rows) if one.short is not None]
        made = plain_table(title, *(str(column.short) for column in columns))
        for row, scores, _ in rows:
            made.add_row(row, *(column.cell(scores, html=False) for column in columns))
        return made

    if (part := results.metrics["embeddings"]) is not None:
        title = f"{retrieval_direction(part)}, {part['rows']} rows ({part['split']})"
        yield table(title, "embeddings", tables.embedding_rows(part))
    if (part := results.metrics[level]) is not None:
        title = f"{level} from {part['rows']} {tables.INPUTS[level]}, by {part['encoder']}"
        yield table(title, level, tables.generation_rows(part, level))
        if trips := tables.round_trip_rows(part):
            yield table("round trip", "round_trip", trips)


def _difference_table(differences: list[Any]) -> Table:
    """Return a table of differences with their intervals and p-values."""
    table = plain_table("metric", "of", "difference", "95 %", "p", "")
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for one in differences:
        by = one.difference
        table.add_row(
            one.metric,
            f"{one.one} - {one.other}",
            f"{by.value:+.3g}",
            f"{by.low:+.3g} to {by.high:+.3g}",
            f"{one.p:.3g}",
            "significant" if one.is_significant else "",
        )
    return table
