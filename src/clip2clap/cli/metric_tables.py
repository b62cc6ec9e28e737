"""Metrics of evaluations as tables for a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from clip2clap.cli.progress import plain_table

_INPUTS = {"audio": "images", "images": "recordings"}


def embedding_table(results: Any) -> Table:
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


def generation_table(results: Any, level: str) -> Table:
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


def round_trip_table(part: dict[str, Any]) -> Table:
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


def difference_table(differences: list[Any]) -> Table:
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
