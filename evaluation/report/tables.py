"""Tables of the report, and its sections on generated audio and images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from clip2clap.evaluation.generation.base import WRONG_SOURCE
from clip2clap.report.page import card, picture

_TITLES = {"audio": "Audio", "images": "Images"}
_INPUTS = {"audio": "images", "images": "recordings"}
_ROUND_TRIPS = {"audio": "Image to audio to image", "images": "Audio to image to audio"}

Row = tuple[str, Sequence[str], bool]
"""Name, cells as HTML, and True for a control."""


@dataclass(frozen=True)
class Column:
    """Column of a table of generated files: metric, title on the page and on the terminal."""

    key: str
    title: str
    short: str
    digits: int
    percent: bool = False

    def value(self, scores: Mapping[str, Any]) -> Any:
        """Return the metric from `results.json`: a number, an estimate, or None."""
        known = {**scores["distances"], **scores["metrics"], "seconds": scores["seconds"]}
        return known.get(self.key)


_CLASSIFIER = Column("classifier", "Classifier", "classifier", 1, percent=True)
_TRANSLATED = Column("translated_similarity", "Translated similarity", "translated", 3)
_SECONDS = Column("seconds", "Seconds per file", "s", 2)

COLUMNS: dict[str, tuple[Column, ...]] = {
    "audio": (
        Column("fd", "FD", "FD", 3),
        Column("fad", "FAD, 1 s", "FAD", 3),
        Column("kd", "Kernel distance", "kernel", 4),
        Column("clap_score", "CLAP score", "CLAP score", 3),
        _TRANSLATED,
        _CLASSIFIER,
        Column("clip_score", "CLIP-score", "CLIP-score", 1),
        _SECONDS,
    ),
    "images": (
        Column("fd", "FD", "FD", 3),
        Column("kd", "Kernel distance", "kernel", 4),
        _CLASSIFIER,
        _TRANSLATED,
        Column("real_similarity", "Real similarity", "real", 3),
        _SECONDS,
    ),
}
"""Columns of generated audio and of generated images."""


def generation_rows(
    part: Mapping[str, Any], level: str
) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Yield name, scores and True for a control: the real files, then the translators."""
    if part["real"] is not None:
        yield f"real {level}", part["real"], True
    for one in part["translators"]:
        yield one["scores"]["name"], one["scores"], False
        yield WRONG_SOURCE, one["wrong_source"], True


def round_trip_rows(part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], bool]]:
    """Yield name, scores and True for a control of every round trip."""
    for one in part["translators"]:
        trip = one["round_trip"]
        for key, name, is_control in (
            ("scores", one["scores"]["name"], False),
            ("wrong_source", WRONG_SOURCE, True),
            ("real", "real, same class", True),
        ):
            if trip is not None and trip[key] is not None:
                yield name, trip[key], is_control


def cell(column: Column, scores: Mapping[str, Any]) -> str:
    """Format a metric as HTML, with its interval; empty if it was not measured."""
    value = column.value(scores)
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return f"{value:.{column.digits}f}"
    return percent(value) if column.percent else number(value, column.digits)


def percent(estimate: Mapping[str, float] | None) -> str:
    """Format a share and its interval as HTML."""
    if estimate is None:
        return ""
    value, low, high = (100 * estimate[key] for key in ("value", "low", "high"))
    return f"{value:.1f} %<small>{low:.1f} to {high:.1f}</small>"


def number(estimate: Mapping[str, float], digits: int, unit: str = "") -> str:
    """Format a value and its interval as HTML."""
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{unit}<small>{low} to {high}</small>"


def html_table(header: Sequence[str], rows: Iterable[Row]) -> str:
    """Format rows of HTML cells; controls are gray."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f"<tr{' class=control' if is_control else ''}><td>{escape(name)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, cells, is_control in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def paragraph(text: str) -> str:
    """Format text as an HTML paragraph."""
    return f"<p>{escape(text)}</p>"


def generation_sections(part: Mapping[str, Any], level: str) -> list[str]:
    """Write the sections on one part of `results.json`, `audio` or `images`, as HTML."""
    title, columns = _TITLES[level], COLUMNS[level]
    classifier = "" if part["classifier"] is None else f" Classifier: {part['classifier']}."
    encoder = "CLAP" if level == "audio" else "CLIP"
    rows = [
        (name, [str(scores["files"]), *(cell(column, scores) for column in columns)], is_control)
        for name, scores, is_control in generation_rows(part, level)
    ]
    header = ["", "Files", *(column.title for column in columns)]
    return [
        f"<h2>{title}</h2>",
        paragraph(
            f"{part['rows']:,} {_INPUTS[level]} of {part['folder']} through {part['pipeline']}, "
            f"beside {part['references']:,} real files. Measured by the {encoder} "
            f"{part['encoder']}.{classifier}"
        ),
        card(title, html_table(header, rows)),
        *(paragraph(note) for note in part["notes"]),
        *_round_trip_sections(part, level),
        *_confusion_sections(part),
    ]


def _round_trip_sections(part: Mapping[str, Any], level: str) -> list[str]:
    rows = [
        (name, [number(trip["similarity"], 3), percent(trip["nearest_label"])], is_control)
        for name, trip, is_control in round_trip_rows(part)
    ]
    if not rows:
        return []
    return [
        f"<h3>{_ROUND_TRIPS[level]}</h3>",
        paragraph(
            f"Ends compared with their own {_INPUTS[level]}, in the encoder of these; with those "
            f"of another class; and other {_INPUTS[level]} of the class in place of the ends."
        ),
        card("Round trips", html_table(["", "Similarity", "Nearest label"], rows)),
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
