"""Tables of the report, and its sections on generated audio and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from clip2clap.evaluation.generation.base import WRONG_SOURCE
from clip2clap.evaluation.results import leaderboard
from clip2clap.report.page import card, picture

_TITLES = {"audio": "Audio", "images": "Images"}
INPUTS = {"audio": "images", "images": "recordings"}
_ROUND_TRIPS = {"audio": "Image to audio to image", "images": "Audio to image to audio"}

Row = tuple[str, Mapping[str, Any], bool]
"""Name, scores as `results.json` has them, and True for a control."""


@dataclass(frozen=True)
class Column:
    """Column of a table: a metric, by its path in the scores, and how it is shown.

    `short` is the title on the terminal, which has no columns without one.
    """

    path: str
    title: str
    digits: int = 3
    unit: str = ""
    short: str | None = None

    def value(self, scores: Mapping[str, Any]) -> Any:
        """Return the metric: a number, an estimate, or None."""
        value: Any = scores
        for key in self.path.split("."):
            value = None if value is None else value.get(key)
        return value

    def cell(self, scores: Mapping[str, Any], *, html: bool) -> str:
        """Format the metric with its interval; empty if it was not measured."""
        value = self.value(scores)
        if not isinstance(value, Mapping):
            return "" if value is None else f"{value:,.{self.digits}f}"
        half = (value["high"] - value["low"]) / 2
        factor = 100 if self.unit == " %" else 1
        middle, low, high, half = (
            f"{factor * each:.{self.digits}f}"
            for each in (value["value"], value["low"], value["high"], half)
        )
        if html:
            return f"{middle}{self.unit}<small>{low} to {high}</small>"
        return f"{middle} ± {half}{self.unit}"


_FD = Column("distances.fd", "FD", short="FD")
_KERNEL = Column("distances.kd", "Kernel distance", 4, short="kernel")
_TRANSLATED = Column("metrics.translated_similarity", "Translated similarity", short="translated")
_CLASSIFIER = Column("metrics.classifier", "Classifier", 1, " %", short="classifier")
_FILES, _SECONDS = Column("files", "Files", 0), Column("seconds", "Seconds per file", 2, short="s")

COLUMNS: dict[str, tuple[Column, ...]] = {
    "embeddings": (
        Column("forward.recall_at_1", "Recall at 1", 1, " %", short="recall at 1"),
        Column("forward.recall_at_5", "at 5", 1, " %"),
        Column("forward.recall_at_10", "at 10", 1, " %", short="at 10"),
        Column("forward.median_rank", "Median rank", 1),
        Column("forward.mrr", "MRR", short="mrr"),
        Column("cosine", "Cosine", short="cosine"),
        Column("backward.recall_at_1", "Reverse at 1", 1, " %"),
        Column("backward.recall_at_10", "reverse at 10", 1, " %"),
        Column("backward.mrr", "Reverse MRR"),
        Column("nearest_label.accuracy", "Nearest label", 1, " %", short="nearest label"),
    ),
    "geometry": (
        Column("hubness", "Hubness", 2),
        Column("csls_hubness", "with CSLS", 2),
        Column("csls.recall_at_10", "Recall at 10 with CSLS", 1, " %"),
        Column("gap_distance", "Gap"),
        Column("gap_angle", "Angle", 1, "°"),
        Column("parameters", "Weights", 0),
    ),
    "audio": (
        _FILES,
        _FD,
        Column("distances.fad", "FAD, 1 s", short="FAD"),
        _KERNEL,
        Column("metrics.clap_score", "CLAP score", short="CLAP score"),
        _TRANSLATED,
        _CLASSIFIER,
        Column("metrics.clip_score", "CLIP-score", 1, short="CLIP-score"),
        _SECONDS,
    ),
    "images": (
        _FILES,
        _FD,
        _KERNEL,
        _CLASSIFIER,
        _TRANSLATED,
        Column("metrics.real_similarity", "Real similarity", short="real"),
        _SECONDS,
    ),
    "round_trip": (
        Column("similarity", "Similarity", short="similarity"),
        Column("nearest_label", "Nearest label", 1, " %", short="nearest label"),
    ),
}
"""Columns of each table."""


def measured_columns(name: str, rows: Sequence[Row]) -> list[Column]:
    """Return the columns of a table that have a value in any row."""
    return [
        column
        for column in COLUMNS[name]
        if any(column.value(scores) is not None for _, scores, _ in rows)
    ]


def embedding_rows(part: Mapping[str, Any]) -> list[Row]:
    """Return the translators, the best first and each above its control, and the baseline."""
    rows: list[Row] = []
    for one in leaderboard(part):
        scores = {**one["scores"], "parameters": one["parameters"]}
        rows += [(scores["name"], scores, False), ("shuffled pairs", one["shuffled"], True)]
    return [*rows, (part["mean_vector"]["name"], part["mean_vector"], True)]


def generation_rows(part: Mapping[str, Any], level: str) -> list[Row]:
    """Return the real files, the translators and the words route, each above its control."""
    rows: list[Row] = [] if part["real"] is None else [(f"real {level}", part["real"], True)]
    for one in _routes(part):
        rows += [(one["scores"]["name"], one["scores"], one is part.get("words_route"))]
        rows += [(WRONG_SOURCE, one["wrong_source"], True)]
    return rows


def _routes(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the results of the translators and, if it was measured, of the words route."""
    words = part.get("words_route")
    return [*part["translators"], *([] if words is None else [words])]


def round_trip_rows(part: Mapping[str, Any]) -> list[Row]:
    """Return the round trips that were measured, each above its controls."""
    return [
        (name, one["round_trip"][key], key != "scores")
        for one in _routes(part)
        for key, name in (
            ("scores", one["scores"]["name"]),
            ("wrong_source", WRONG_SOURCE),
            ("real", "real, same class"),
        )
        if one["round_trip"] is not None and one["round_trip"][key] is not None
    ]


def html_table(name: str, rows: Sequence[Row]) -> str:
    """Format a table as HTML; controls are gray."""
    columns = measured_columns(name, rows)
    head = "".join(f'<th scope="col">{escape(one.title)}</th>' for one in columns)
    body = "".join(
        f"<tr{' class=control' if is_control else ''}><td>{escape(title)}</td>"
        + "".join(f"<td>{column.cell(scores, html=True)}</td>" for column in columns)
        + "</tr>"
        for title, scores, is_control in rows
    )
    return f'<table><tr><th scope="col"></th>{head}</tr>{body}</table>'


def paragraph(text: str) -> str:
    """Format text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def generation_sections(part: Mapping[str, Any], level: str) -> list[str]:
    """Write the sections on one part of `results.json`, `audio` or `images`, as HTML."""
    title = _TITLES[level]
    classifier = "" if part["classifier"] is None else f" Classifier: {part['classifier']}."
    encoder = "CLAP" if level == "audio" else "CLIP"
    return [
        f"<h2>{title}</h2>",
        paragraph(
            f"{part['rows']:,} {INPUTS[level]} of {part['folder']} through {part['pipeline']}, "
            f"beside {part['references']:,} real files. Measured by the {encoder} "
            f"{part['encoder']}.{classifier}"
        ),
        card(title, html_table(level, generation_rows(part, level))),
        *(paragraph(note) for note in part["notes"]),
        *_round_trip_sections(part, level),
        *_confusion_sections(part),
    ]


def _round_trip_sections(part: Mapping[str, Any], level: str) -> list[str]:
    rows = round_trip_rows(part)
    if not rows:
        return []
    return [
        f"<h3>{_ROUND_TRIPS[level]}</h3>",
        paragraph(
            f"Ends compared with their own {INPUTS[level]}, in the encoder of these; with those "
            f"of another class; and other {INPUTS[level]} of the class in place of the ends."
        ),
        card("Round trips", html_table("round_trip", rows)),
    ]


def _confusion_sections(part: Mapping[str, Any]) -> list[str]:
    from clip2clap.report.charts import confusion_matrix

    classified = [one for one in part["translators"] if one["confusion"] is not None]
    if not classified:
        return []
    best = max(classified, key=lambda one: one["scores"]["metrics"]["classifier"]["value"])
    return [
        f"<h3>Confusion matrix, {escape(best['scores']['name'])}</h3>",
        picture(confusion_matrix(part["labels"], best["confusion"]), "Confusion matrix"),
    ]
