"""Comparison of evaluations by the paired bootstrap."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.evaluation.results import LEVELS, Results
from clip2clap.metrics.bootstrap import CONFIDENCE, Estimate, Resamples
from clip2clap.metrics.retrieval import RECALLS

RESAMPLES = 5000
"""Bootstrap draws: enough that the smallest p-value survives 100 comparisons."""

# Ranks per row, and the prefix of the metrics that they make.
_SIDES = {"forward": "", "backward": "reverse_"}

_MEANS = (
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


_Measured = tuple[str, tuple[float, np.ndarray]]
"""Translator, and a metric's value and draws."""


@dataclass(frozen=True)
class Difference:
    """Difference of two translators in one metric, measured on the same rows.

    Attributes:
        metric: Name such as `recall_at_10`; `reverse_` is from target to prediction.
        difference: Value of `one` minus that of `other`, with its interval.
        p: p-value, adjusted for all comparisons of this metric (Holm 1979).
    """

    metric: str
    one: str
    other: str
    one_value: float
    other_value: float
    difference: Estimate
    p: float

    @property
    def is_significant(self) -> bool:
        """True if the p-value is below 0.05."""
        return self.p < 1 - CONFIDENCE


def compare_results(
    one: Results, other: Results | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """Compare translators that were measured on the same rows, by the paired bootstrap.

    The words route, if it was measured, is compared as a translator is.

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
        >>> import numpy as np
        >>> from clip2clap.evaluation import Results, compare_results
        >>> both = [{"scores": {"name": "one"}}, {"scores": {"name": "other"}}]
        >>> metrics = {"embeddings": {"translators": both}, "audio": None, "images": None}
        >>> rows = {"one/cosine": np.arange(9), "other/cosine": np.zeros(9), "items": np.arange(9)}
        >>> results = Results(metrics, {f"embeddings/{name}": own for name, own in rows.items()})
        >>> [(found.metric, found.is_significant) for found in compare_results(results)]
        [('cosine', True)]
    """
    found: list[Difference] = []
    for level in LEVELS:
        if one.metrics[level] is None or (other is not None and other.metrics[level] is None):
            continue
        if other is not None:
            _check_same(one, other, level)
        draws = Resamples(one.per_row[f"{level}/items"], resamples=resamples, seed=seed)
        these = _metrics(one, level, draws)
        those = None if other is None else _metrics(other, level, draws)
        for metric, values in these.items():
            pairs = list(combinations(values.items(), 2))
            if those is not None:
                pairs = [
                    ((name, own), (f"{second} (second)" if second == name else second, theirs))
                    for name, own in values.items()
                    for second, theirs in those.get(metric, {}).items()
                ]
            found += _compare(metric, pairs)
    if not found:
        raise UserError(
            "There are no two translators to compare. Expected two results.json, or one of several "
            "translators."
        )
    return found


def _compare(metric: str, pairs: Sequence[tuple[_Measured, _Measured]]) -> list[Difference]:
    found, raw = [], []
    for (one, (value, draws)), (other, (other_value, other_draws)) in pairs:
        drawn = draws - other_draws
        found.append((one, other, value, other_value, Estimate.of(value - other_value, drawn)))
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        raw.append(min(1.0, float(2 * (tail + 1) / (len(drawn) + 1))))
    return [
        Difference(metric, one, other, value, other_value, difference, p)
        for (one, other, value, other_value, difference), p in zip(found, _holm(raw), strict=True)
    ]


def _holm(p_values: list[float]) -> list[float]:
    """Adjust p-values for the number of comparisons (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(scaled.clip(max=1.0))
    return adjusted.tolist()


def _metrics(
    results: Results, level: str, draws: Resamples
) -> dict[str, dict[str, tuple[float, np.ndarray]]]:
    """Return the value and the draws of every metric, by translator."""
    found: dict[str, dict[str, tuple[float, np.ndarray]]] = {}
    part = results.metrics[level]
    words = part.get("words_route")
    for entry in [*part["translators"], *([] if words is None else [words])]:
        name = entry["scores"]["name"]
        known = {key: results.per_row.get(f"{level}/{name}/{key}") for key in (*_SIDES, *_MEANS)}
        for key, values in known.items():
            if values is None:
                continue
            own = {key: values}
            if key in _SIDES:
                own = {f"recall_at_{k}": values <= k for k in RECALLS}
                own |= {"mrr": 1 / values, "median_rank": values}
            for metric, each in own.items():
                summarize, redraw = np.mean, draws.means
                if metric == "median_rank":
                    summarize, redraw = np.median, draws.medians
                each = each.astype(np.float64)
                of = found.setdefault(_SIDES.get(key, "") + metric, {})
                of[name] = float(summarize(each)), redraw(each)
    return found


def _check_same(one: Results, other: Results, level: str) -> None:
    these, those = one.metrics[level], other.metrics[level]
    if these["fingerprint"] != those["fingerprint"]:
        raise UserError(
            f"The two were measured on different rows ({level}: {these['rows']} and "
            f"{those['rows']}), so their differences have no meaning. Evaluate both on the same "
            "table, split and limit."
        )
