"""Which differences between two evaluations are real."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.evaluation.results import Results
from clip2clap.metrics.bootstrap import CONFIDENCE, Estimate, Resamples
from clip2clap.metrics.retrieval import RECALLS

RESAMPLES = 5000
"""Draws of the paired bootstrap: enough that the smallest p-value survives 100 comparisons."""


@dataclass(frozen=True)
class Difference:
    """One figure of two translators, measured on the same rows."""

    figure: str
    """Such as `recall_at_10`; `reverse_` is from target to prediction."""

    one: str
    """A translator."""

    other: str
    """Another."""

    one_value: float
    """The first one's figure."""

    other_value: float
    """The other's figure."""

    difference: Estimate
    """The first one's less the other's, with its interval."""

    p: float
    """How often chance alone would give such a difference, over all comparisons of this figure
    (Holm 1979)."""

    @property
    def is_real(self) -> bool:
        """Whether chance is no good explanation."""
        return self.p < 1 - CONFIDENCE


def compare_results(
    one: Results, other: Results | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compare translators that were measured on the same rows, by the paired bootstrap.

    Both are measured on the same draws of items (Koehn 2004), so that what makes a row hard for
    both cancels out.

    Args:
        one: An evaluation.
        other: Another, each of whose translators is compared with each of the first; None compares
            every two translators of the first.
        resamples: Draws.
        seed: Of the draws.

    Returns:
        The differences figure by figure.

    Raises:
        UserError: If they were measured on other rows, or there is nothing to compare.
    """
    found: list[Difference] = []
    for level in ("embeddings", "sounds", "pictures"):
        if one.figures[level] is None or (other is not None and other.figures[level] is None):
            continue
        if other is not None:
            _check_same(one, other, level)
        draws = Resamples(one.per_row[f"{level}/items"], resamples=resamples, seed=seed)
        for figure, get, statistic in _FIGURES:
            pairs = list(_pairs(one, other, level, get))
            found += _compare(figure, pairs, _STATISTICS[statistic], draws)
    if not found:
        raise UserError(
            "There are no two translators to compare. Give two results.json, or one of several "
            "translators."
        )
    return found


_Values = tuple[str, np.ndarray]
_Statistic = tuple[Callable[[np.ndarray], np.floating], str]

_STATISTICS: dict[str, _Statistic] = {
    "mean": (np.mean, "means"),
    "median": (np.median, "medians"),
}

_FIGURES: list[tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray], str]] = [
    *(
        (f"{prefix}{name}", get, statistic)
        for prefix, side in (("", "forward"), ("reverse_", "backward"))
        for name, get, statistic in (
            *(
                (f"recall_at_{k}", lambda rows, side=side, k=k: rows[side] <= k, "mean")
                for k in RECALLS
            ),
            ("mrr", lambda rows, side=side: 1 / rows[side], "mean"),
            ("median_rank", lambda rows, side=side: rows[side], "median"),
        )
    ),
    *(
        (name, lambda rows, key=key: rows[key], "mean")
        for name, key in (
            ("cosine", "cosine"),
            ("nearest_kind", "kind"),
            ("clap_score", "clap_score"),
            ("translated_similarity", "translated"),
            ("classifier", "classifier"),
            ("clip_score", "clip_score"),
            ("true_picture_similarity", "true_picture"),
            ("round_trip_similarity", "round_trip"),
            ("round_trip_nearest_kind", "round_trip_kind"),
        )
    ),
]


def _compare(
    figure: str, pairs: list[tuple[_Values, _Values]], statistic: _Statistic, draws: Resamples
) -> list[Difference]:
    summarise, method = statistic
    found, raw = [], []
    for (one, these), (other, those) in pairs:
        drawn = getattr(draws, method)(these) - getattr(draws, method)(those)
        values = float(summarise(these)), float(summarise(those))
        found.append((one, other, values, Estimate.of(values[0] - values[1], drawn)))
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        raw.append(min(1.0, float(2 * (tail + 1) / (len(drawn) + 1))))
    return [
        Difference(figure, one, other, values[0], values[1], difference, p)
        for (one, other, values, difference), p in zip(found, _holm(raw), strict=True)
    ]


def _holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for the number of comparisons (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, at in enumerate(sorted(range(len(p_values)), key=lambda at: p_values[at])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def _pairs(
    one: Results,
    other: Results | None,
    level: str,
    get: Callable[[dict[str, np.ndarray]], np.ndarray],
) -> Iterator[tuple[_Values, _Values]]:
    """Give every two translators that have a figure, row by row."""
    these = list(_rows(one, level, get))
    if other is None:
        yield from combinations(these, 2)
        return
    for first in these:
        for second in _rows(other, level, get):
            name = second[0]
            yield first, (f"{name} (second)" if name == first[0] else name, second[1])


def _rows(
    results: Results, level: str, get: Callable[[dict[str, np.ndarray]], np.ndarray]
) -> Iterator[_Values]:
    for entry in results.figures[level]["translators"]:
        name = entry["scores"]["name"]
        prefix = f"{level}/{name}/"
        rows = {
            key.removeprefix(prefix): values.astype(np.float64)
            for key, values in results.per_row.items()
            if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
        }
        try:
            yield name, get(rows).astype(np.float64)
        except KeyError:
            continue


def _check_same(one: Results, other: Results, level: str) -> None:
    if one.figures[level]["fingerprint"] != other.figures[level]["fingerprint"]:
        raise UserError(
            f"The two were measured on different rows ({level}: {one.figures[level]['rows']} and "
            f"{other.figures[level]['rows']}), so their differences say nothing. Evaluate both on "
            "the same table, split and limit."
        )
