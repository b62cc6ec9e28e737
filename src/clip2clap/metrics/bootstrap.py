"""Bootstrap confidence intervals and paired differences.

Whole items are drawn with replacement (Efron 1979; the cluster bootstrap), since five captions of
one clip are not five independent trials. All metrics of one evaluation share their draws, so that
the difference of two of them has an interval of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip2clap.core.errors import UserError

CONFIDENCE = 0.95
"""Confidence level of the intervals."""

# Draws computed at once, to bound memory.
_AT_ONCE = 50


@dataclass(frozen=True)
class Estimate:
    """Value, and the lower and upper end of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: np.ndarray) -> "Estimate":
        """Create an estimate with the percentile interval of bootstrap draws."""
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return cls(float(value), float(low), float(high))


class Resamples:
    """Bootstrap draws of items with replacement, the same for every metric.

    Args:
        items: Item of each row, such as the clip of a caption; rows of one item are drawn together.
        resamples: Number of draws.
        seed: Seed of the draws.

    Raises:
        UserError: If there are no rows or no draws.
    """

    def __init__(self, items: Sequence[Any] | np.ndarray, *, resamples: int = 1000, seed: int = 0):
        if not len(items) or resamples < 1:
            raise UserError(
                f"Expected at least one row and one draw, got {len(items)} and {resamples}."
            )
        names, codes = np.unique(np.asarray(items), return_inverse=True)
        self.items, self.resamples = len(names), resamples
        self._codes = codes
        # Nearly always below 10; items are counted one by one, so 255 is out of reach.
        self.counts = np.empty((resamples, len(names)), np.uint8)
        """Count of each item in each draw, shape (draws, items)."""
        rng = np.random.default_rng(seed)
        for draw in self.counts:
            chosen = rng.integers(len(names), size=len(names))
            draw[:] = np.bincount(chosen, minlength=len(names))

    def means(self, values: np.ndarray) -> np.ndarray:
        """Compute the mean of every draw; values (n,) or (n, s) to means (draws,) or (draws, s)."""
        values = np.asarray(values, np.float64)
        sums = np.zeros((self.items, *values.shape[1:]))
        np.add.at(sums, self._codes, values)
        sizes = np.bincount(self._codes, minlength=self.items)
        parts = (part.astype(np.float64) for part in self._parts())
        return np.concatenate([((part @ sums).T / (part @ sizes)).T for part in parts])

    def medians(self, values: np.ndarray) -> np.ndarray:
        """Compute the median over the rows of every draw; values (n,) to medians (draws,)."""
        order = np.argsort(values)
        ordered = np.asarray(values, np.float64)[order]
        medians = []
        for part in self._parts():
            seen = np.cumsum(part[:, self._codes[order]], axis=1, dtype=np.int32)
            total = seen[:, -1]
            middle = [(seen > place[:, None]).argmax(1) for place in ((total - 1) // 2, total // 2)]
            medians.append(ordered[middle].mean(0))
        return np.concatenate(medians)

    def mean(self, values: np.ndarray) -> Estimate:
        """Estimate a mean."""
        return Estimate.of(float(np.mean(values)), self.means(values))

    def share(self, values: np.ndarray) -> Estimate:
        """Estimate the share of true rows, with the wider of two intervals.

        Near 0 and 1 all draws are equal and the bootstrap interval is too narrow; Wilson's interval
        (1927), for as many trials as there are items, is not.
        """
        from scipy import stats

        mean = self.mean(values)
        trials = stats.binomtest(round(mean.value * self.items), self.items)
        wilson = trials.proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(mean.value, min(mean.low, wilson.low), max(mean.high, wilson.high))

    def median(self, values: np.ndarray) -> Estimate:
        """Estimate a median."""
        return Estimate.of(float(np.median(values)), self.medians(values))

    def _parts(self) -> list[np.ndarray]:
        return [self.counts[at : at + _AT_ONCE] for at in range(0, self.resamples, _AT_ONCE)]
