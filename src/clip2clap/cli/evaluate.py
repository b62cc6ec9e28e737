"""The verb `evaluate`."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_device, check_exists, check_translator, require
from clip2clap.cli.measuring import (
    families_of,
    load_translators,
    measure_embeddings,
    measure_generation,
)
from clip2clap.cli.options.data import Evaluate
from clip2clap.cli.progress import RunReport, plain_table

_INPUTS = {"audio": "images", "images": "recordings"}
_SPLITS = ("auto", "test", "validation", "train", "held-out", "all")
_OF_FILES = ("image_dir", "audio_dir", "clap", "classifier", "back", "round_trip", "contact_sheet")


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
    if results.metrics["embeddings"] is not None:
        report.show(_embedding_table(results))
    if results.metrics[level] is not None:
        report.show(_generation_table(results, level))
        if options.round_trip is not None:
            report.show(_round_trip_table(results.metrics[level]))
    report.show(f"Report: {page}")
    report.end(results.metrics)


def measure(options: Evaluate) -> tuple[Any, Path, str]:
    """Evaluate translators, and write the results and the report.

    Returns:
        Results, path of the page, and `audio` or `images`: what the translators generate.
    """
    from clip2clap.evaluation.report.page import Illustrations, write_evaluation_page
    from clip2clap.evaluation.results import join_results

    output = options.output or _default_output(options)
    require(not output.is_file(), "output", f"{output} is a file, not a folder.")
    translators = load_translators(options.inputs)
    level = "images" if families_of(translators) == ("clap", "clip") else "audio"
    if options.pipeline is not None:
        (_check_images if level == "images" else _check_audio)(options)
    rows = embeddings = generated = None
    illustrations = Illustrations()
    if options.table is not None:
        rows, embeddings, illustrations = measure_embeddings(translators, options)
    if options.pipeline is not None:
        generated, illustrations = measure_generation(
            translators, illustrations, output, options, rows
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
        "--image-dir, --audio-dir, --clap, --classifier, --back, --round-trip and --contact-sheet "
        "are about generated audio or images. Name the pipeline that generates them.",
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


def _default_output(options: Evaluate) -> Path:
    if options.table is None:
        return Path("clip2clap-evaluate")
    table = options.table.absolute()
    return table.with_name(f"{table.name}-report")


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


def _embedding_table(results: Any) -> Table:
    """Return a table of the translators, the best first, and of the controls."""
    from clip2clap.evaluation.results import leaderboard, retrieval_direction

    part = results.metrics["embeddings"]
    ranked = leaderboard(part)
    has_labels = ranked[0]["scores"]["nearest_label"] is not None
    table = plain_table(
        f"{retrieval_direction(part)}, {part['rows']} rows ({part['split']})",
        *("recall at 1", "at 10", "mrr", "cosine", *(["nearest label"] if has_labels else [])),
    )
    lines = [
        *((one["scores"]["name"], one["scores"]) for one in ranked),
        ("shuffled pairs", ranked[0]["shuffled"]),
        ("mean vector", part["mean_vector"]),
    ]
    for name, scores in lines:
        forward = scores["forward"]
        cells = [
            _percent(forward["recall_at_1"]),
            _percent(forward["recall_at_10"]),
            _number(forward["mrr"]),
            _number(scores["cosine"]),
            *([_percent(scores["nearest_label"]["accuracy"])] if has_labels else []),
        ]
        table.add_row(name, *cells)
    return table


def _generation_table(results: Any, level: str) -> Table:
    """Return a table of generated files below the real ones, each above its control.

    Args:
        results: Results of the evaluation.
        level: `audio` or `images`.
    """
    from clip2clap.evaluation.report.tables import COLUMNS, generation_rows

    part, columns = results.metrics[level], COLUMNS[level]
    table = plain_table(
        f"{level} from {part['rows']} {_INPUTS[level]}, by {part['encoder']}",
        *(column.short for column in columns),
    )
    for name, scores, _ in generation_rows(part, level):
        cells = []
        for column in columns:
            value = column.value(scores)
            if isinstance(value, Mapping):
                value = _percent(value) if column.percent else _number(value, column.digits)
            elif value is not None:
                value = f"{value:.{min(column.digits, 3)}f}"
            cells.append(value or "")
        table.add_row(name, *cells)
    return table


def _round_trip_table(part: dict[str, Any]) -> Table:
    """Return a table of round trips.

    Args:
        part: `audio` or `images` of the results.
    """
    from clip2clap.evaluation.report.tables import round_trip_rows

    table = plain_table("round trip", "similarity", "nearest label")
    for name, scores, _ in round_trip_rows(part):
        label = scores["nearest_label"]
        table.add_row(name, _number(scores["similarity"]), "" if label is None else _percent(label))
    return table


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


def _percent(estimate: Mapping[str, float]) -> str:
    return f"{100 * estimate['value']:.1f} ± {50 * (estimate['high'] - estimate['low']):.1f} %"


def _number(estimate: Mapping[str, float], digits: int = 3) -> str:
    half = (estimate["high"] - estimate["low"]) / 2
    return f"{estimate['value']:.{digits}f} ± {half:.{digits}f}"
