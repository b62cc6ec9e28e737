"""Page of a benchmark: accuracies beside published ones, folds, and the confusion matrix."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from clip2clap.core.files import as_path
from clip2clap.core.output_folder import writing_to
from clip2clap.core.version import __version__
from clip2clap.evaluation.report.tables import paragraph
from clip2clap.report.page import card, picture, table, write_page

PAGE_FILE = "benchmark.html"

_STYLE = """\
  table { width: auto; }
  th, td { padding-right: .75rem; font-size: .9375rem; }
"""
_METRICS = {
    "recall_at_1": "Recall at 1",
    "recall_at_5": "at 5",
    "recall_at_10": "at 10",
    "map_at_10": "mAP@10",
}
_MOST_CONFUSIONS = 10


def percent(estimate: Mapping[str, float]) -> str:
    """Format a share with its 95 % interval."""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def retrievals(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a retrieval's table: names, with metrics or those of the control."""
    return [
        (name, metrics)
        for one in results["results"]
        for name, metrics in (
            (": ".join([*([one["method"]] if "method" in one else []), one["direction"]]),
             one["metrics"]),
            ("shuffled", one["shuffled"]),
        )
    ]  # fmt: skip


def trained_on(results: Mapping[str, Any]) -> str:
    """Return a note on the folds that the encoder was trained on."""
    folds = ", ".join(map(str, results["trained_on"]))
    return (
        f"{results['encoder']} was trained on clips of the folds {folds}: only its accuracy on "
        "unseen folds is comparable."
    )


def write_benchmark_page(results: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the page of a benchmark, `benchmark.html`; a file of that name is replaced.

    Args:
        results: Content of `benchmark.json`, as `run_benchmark` returns it.
        folder: Folder of the page; created if it does not exist.

    Returns:
        Path of the page.

    Raises:
        UserError: If the folder cannot be written to.
    """
    path = as_path(folder) / PAGE_FILE
    sections = _classification(results) if results["labels"] else _retrieval(results)
    with writing_to(path.parent):
        write_page(
            path,
            verb="benchmark",
            title=f"{results['title']}: {results['encoder']}",
            content="\n".join([paragraph(_summary(results)), *sections]),
            footer=f"Written by clip2clap {escape(__version__)}. The file benchmark.json beside "
            "this page holds all numbers.",
            style=_STYLE,
        )
    return path


def _summary(results: Mapping[str, Any]) -> str:
    text = f"{results['clips']:,} of {results['expected']:,} clips. "
    if results["clips"] != results["expected"]:
        text += "Not the complete data set, so not comparable with published numbers as they are. "
        text += f"{results['lacking']}. " if results["lacking"] else ""
    if results["unreadable"]:
        text += f"{len(results['unreadable'])} clips cannot be read and are left out. "
    if results["trained_on"]:
        text += f"{trained_on(results)} "
    return text + (
        f"95 % intervals by {results['resamples']:,} bootstrap draws of recordings. The control "
        "has shuffled labels."
    )


def _classification(results: Mapping[str, Any]) -> list[str]:
    rows = results["results"]
    best = max(rows, key=lambda one: one["accuracy"]["value"])
    names = [name.replace("_", " ") for name in results["labels"]]
    folds = sorted({fold for one in rows for fold in one["folds"]}, key=int)
    return [
        "<h2>Accuracy</h2>",
        card("Accuracy", _accuracies(results)),
        *(paragraph(f"{_name(one)}: {one['settings']['description']}.") for one in rows),
        "<h2>Official folds</h2>",
        card(
            "Official folds",
            table(
                "Accuracy by fold, and its mean and standard deviation",
                ["", *(f"fold {fold}" for fold in folds), "mean", "deviation", "top 5"],
                [
                    [
                        _name(one),
                        *(f"{100 * one['folds'][fold]:.1f} %" for fold in folds),
                        f"{100 * one['mean_of_folds']:.2f} %",
                        f"{100 * one['standard_deviation_of_folds']:.2f}",
                        "" if one["top_5"] is None else percent(one["top_5"]),
                    ]
                    for one in rows
                ],
            ),
        ),
        f"<h2>Confusion matrix, {escape(_name(best))}</h2>",
        *([paragraph("Of the unseen folds.")] if results["trained_on"] else []),
        _confusion(names, best["confusion"]),
        card("Most frequent confusions", _confusions(names, best["confusion"])),
    ]


def _name(one: Mapping[str, Any]) -> str:
    return f"{one['method']}, {one['protocol']}"


def _accuracies(results: Mapping[str, Any]) -> str:
    """Format measured and published accuracies as one table, the best first."""
    rows: list[tuple[float, list[str]]] = []
    for one in results["results"]:
        cells = [results["encoder"], one["method"], one["protocol"], percent(one["accuracy"])]
        cells.append("" if one["unseen"] is None else percent(one["unseen"]))
        order = (one["unseen"] or one["accuracy"])["value"]
        rows.append((order, [*cells, percent(one["shuffled"]), "here"]))
    for one in results["published"]:
        cells = [one["model"], one["method"], one["protocol"], f"{one['accuracy']:.2f} %"]
        rows.append((one["accuracy"] / 100, [*cells, "", "", one["source"]]))
    header = ["model", "method", "protocol", "accuracy", "unseen folds", "shuffled labels"]
    header.append("source")
    ordered = sorted(rows, key=lambda row: -row[0])
    return table("Measured here, and published", header, [cells for _, cells in ordered])


def _confusion(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    from clip2clap.report.charts import confusion_matrix

    text = "Confusion matrix of true and predicted labels"
    return picture(confusion_matrix(names, confusion), text, label="Confusion matrix")


def _confusions(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    pairs = sorted(
        ((count, names[true], names[predicted])
         for true, row in enumerate(confusion)
         for predicted, count in enumerate(row)
         if true != predicted and count),
        reverse=True,
    )[:_MOST_CONFUSIONS]  # fmt: skip
    return table(
        "Most frequent confusions",
        ["clips of", "named", "clips"],
        [[true, predicted, str(count)] for count, true, predicted in pairs],
    )


def _retrieval(results: Mapping[str, Any]) -> list[str]:
    rows = [
        [name, *(percent(metrics[key]) for key in _METRICS)]
        for name, metrics in retrievals(results)
    ]
    rows += [
        [f"{one['model']}, {one['direction']} ({one['source']})", f"{one['recall_at_1']:.1f} %"]
        + [""] * 3
        for one in results["published"]
        if "recall_at_1" in one
    ]
    return [
        "<h2>Retrieval</h2>",
        *([paragraph(f"{results['protocol']}.")] if "protocol" in results else []),
        card("Retrieval", table("Recall and mAP@10", ["", *_METRICS.values()], rows)),
    ]
