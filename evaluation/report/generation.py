"""Report sections on generated audio and images."""

from collections.abc import Mapping
from html import escape
from typing import Any

from clip2clap.evaluation.report.tables import (
    COLUMNS,
    cell,
    generation_rows,
    html_table,
    number,
    paragraph,
    percent,
    round_trip_rows,
)
from clip2clap.report.page import card, picture

_TITLES = {"audio": "Audio", "images": "Images"}
_INPUTS = {"audio": "images", "images": "recordings"}
_ROUND_TRIPS = {"audio": "Image to audio to image", "images": "Audio to image to audio"}


def generation_sections(part: Mapping[str, Any], level: str) -> list[str]:
    """Write the sections on one level as HTML.

    Args:
        part: `audio` or `images` of `results.json`.
        level: Name of that part.
    """
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
