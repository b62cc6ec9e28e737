"""Comparison of evaluations by the paired bootstrap."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.evaluation.results import LEVELS, Results
from clip2clap.metrics.bootstrap import CONFIDENCE, Estimate, Resamples
from clip2clap.metrics.retrieval import RECALLS

RESAMPLES = 5000
"""Bootstrap draws: enough that the smallest p-value survives 100 comparisons."""


@dataclass(frozen=True)
class Difference:
    """Difference of two translators in one metric, measured on the same rows."""

    metric: str
    """Name of the metric, such as `recall_at_10`; `reverse_` is from target to prediction."""

    one: str
    """First translator."""

    other: str
    """Second translator."""

    one_value: float
    """Value of the first."""

    other_value: float
    """Value of the second."""

    difference: Estimate
    """First minus second, with its interval."""

    p: float
    """p-value, adjusted for all comparisons of this metric (Holm 1979)."""

    @property
    def is_significant(self) -> bool:
        """True if the p-value is below 0.05."""
        return self.p < 1 - CONFIDENCE


def compare_results(
    one: Results, other: Results | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compare translators that were measured on the same rows, by the paired bootstrap.

    Both are measured on the same draws of items (Koehn 2004), so that the difficulty of a row
    cancels out.

    Args:
        one: Results of an evaluation.
        other: Results of another, each of whose translators is compared with each of the first;
            None compares every two translators of the first.
        resamples: Bootstrap draws.
        seed: Seed of the draws.

    Returns:
        Differences, metric by metric.

    Raises:
        UserError: If they were measured on different rows, or there is nothing to compare.

    Examples:
        >>> from clip2clap.evaluation import Results, compare_results
        >>> compare_results(Results.read("report/results.json"))  # doctest: +SKIP
    """
    found: list[Difference] = []
    for level in LEVELS:
        if one.metrics[level] is None or (other is not None and other.metrics[level] is None):
            continue
        if other is not None:
            _check_same(one, other, level)
        draws = Resamples(one.per_row[f"{level}/items"], resamples=resamples, seed=seed)
        for metric, get, statistic in _METRICS:
            pairs = list(_pairs(one, other, level, get))
            found += _compare(metric, pairs, _STATISTICS[statistic], draws)
    if not found:
        raise UserError(
            "There are no two translators to compare. Expected two results.json, or one of several "
            "translators."
        )
    return found


_Values = tuple[str, np.ndarray]
_Statistic = tuple[Callable[[np.ndarray], np.floating], str]

_STATISTICS: dict[str, _Statistic] = {
    "mean": (np.mean, "means"),
    "median": (np.median, "medians"),
}

_METRICS: list[tuple[str, Callable[[dict[str, np.ndarray]], np.ndarray], str]] = [
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
        (name, lambda rows, name=name: rows[name], "mean")
        for name in (
            "cosine",
            "nearest_label",
            "clap_score",
            "translated_similarity",
            "classifier",
            "clip_score",
            "real_similarity",
            "round_trip",
            "round_trip_nearest_label",
        )
    ),
]


def _compare(
    metric: str, pairs: list[tuple[_Values, _Values]], statistic: _Statistic, draws: Resamples
) -> list[Difference]:
    summarize, method = statistic
    found, raw = [], []
    for (one, these), (other, those) in pairs:
        drawn = getattr(draws, method)(these) - getattr(draws, method)(those)
        values = float(summarize(these)), float(summarize(those))
        found.append((one, other, values, Estimate.of(values[0] - values[1], drawn)))
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        raw.append(min(1.0, float(2 * (tail + 1) / (len(drawn) + 1))))
    return [
        Difference(metric, one, other, values[0], values[1], difference, p)
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
    """Yield every two translators that have a metric, with its values per row."""
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
    for entry in results.metrics[level]["translators"]:
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
    these, those = one.metrics[level], other.metrics[level]
    if these["fingerprint"] != those["fingerprint"]:
        raise UserError(
            f"The two were measured on different rows ({level}: {these['rows']} and "
            f"{those['rows']}), so their differences have no meaning. Evaluate both on the same "
            "table, split and limit."
        )
