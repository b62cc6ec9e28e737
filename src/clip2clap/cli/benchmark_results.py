"""Begin and end of each part of the verb `benchmark`: its output folder, tables and page."""

from pathlib import Path
from typing import Any

from rich.table import Table

from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, plain_table

IMAGE_DATASETS = ("imagehear",)
"""Data sets of images with labels."""


def begin_report(options: Benchmark) -> tuple[RunReport, Path]:
    """Return the report of a run and its output folder, which nothing else is in."""
    output = options.output or Path(f"clip2clap-benchmark-{options.dataset}")
    report = RunReport(options)
    keep_others_out(output)
    return report, output


def end_report(report: RunReport, results: dict[str, Any], output: Path, *notes: str) -> None:
    """Write the page of results, and print their table, notes and what could not be read."""
    from clip2clap.evaluation.report.benchmark import write_benchmark_page

    report.lap("measure")
    page = write_benchmark_page(results, output)
    items = "images" if results["benchmark"] in IMAGE_DATASETS else "clips"
    title = f"{results['title']}, {results['clips']} of {results['expected']} {items}"
    report.show(title, _table(results), *_notes(results), *notes, f"Report: {page}")
    for source, reason in results["unreadable"].items():
        report.skip(source, reason)
    report.end(results)


def _table(results: dict[str, Any]) -> Table:
    """Return measured rows, and published ones below."""
    from clip2clap.evaluation.report.benchmark import percent, retrievals

    if not results["labels"]:
        table = plain_table("", "recall at 1", "at 5", "at 10", "mAP@10")
        for name, found in retrievals(results):
            table.add_row(name, *map(percent, found.values()))
        for one in results["published"]:
            if "recall_at_1" in one:
                name = f"{one['model']}, {one['direction']} ({one['source']})"
                table.add_row(name, f"{one['recall_at_1']:.1f} %")
        return table
    titles = ("method", "protocol", "accuracy", "unseen folds", "folds", "shuffled", "source")
    table = plain_table("model", *titles)
    for one in results["results"]:
        folds = f"{100 * one['mean_of_folds']:.1f} ± {100 * one['standard_deviation_of_folds']:.1f}"
        unseen = "" if one["unseen"] is None else percent(one["unseen"])
        cells = [one["method"], one["protocol"], percent(one["accuracy"]), unseen, folds]
        table.add_row(results["encoder"], *cells, percent(one["shuffled"]), "here")
    for one in results["published"]:
        cells = [one["method"], one["protocol"], f"{one['accuracy']:.2f} %", "", "", ""]
        table.add_row(one["model"], *cells, one["source"])
    for column in table.columns[1:]:
        column.justify = "left"
    return table


def _notes(results: dict[str, Any]) -> list[str]:
    from clip2clap.evaluation.report.benchmark import trained_on

    notes = [
        f"{one['protocol']}: {one['settings']['description']}."
        for one in results["results"]
        if "settings" in one
    ]
    if results["trained_on"]:
        notes.append(trained_on(results))
    if results["lacking"]:
        notes.append(
            f"Not complete, so not comparable with published numbers: {results['lacking']}."
        )
    return notes
