"""Bootstrap confidence intervals and paired differences.

Whole items are drawn with replacement (Efron 1979; the cluster bootstrap), since five captions of
one clip are not five independent trials. All metrics of one evaluation share their draws, so that
the difference of two of them has an interval of its own.
"""

from collections.abc import Iterator, Sequence
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
    """Value with its 95 % confidence interval."""

    value: float
    """Point estimate."""

    low: float
    """Lower end of the interval."""

    high: float
    """Upper end of the interval."""

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
        """Compute the mean over the rows of every draw.

        Args:
            values: Shape (n,) or (n, s).

        Returns:
            Shape (draws,) or (draws, s), float64.
        """
        columns = np.asarray(values, np.float64).reshape(len(values), -1)
        sums = np.zeros((self.items, columns.shape[1]))
        np.add.at(sums, self._codes, columns)
        sizes = np.bincount(self._codes, minlength=self.items)
        means = np.concatenate(
            [(part @ sums) / (part @ sizes)[:, None] for part in self._parts(np.float64)]
        )
        return means.reshape(self.resamples, *np.shape(values)[1:])

    def medians(self, values: np.ndarray) -> np.ndarray:
        """Compute the median over the rows of every draw; values (n,) to medians (draws,)."""
        order = np.argsort(values)
        ordered = np.asarray(values, np.float64)[order]
        medians = []
        for part in self._parts(np.uint8):
            seen = np.cumsum(part[:, self._codes[order]], axis=1, dtype=np.int32)
            total = seen[:, -1]
            middle = [(seen > place[:, None]).argmax(1) for place in ((total - 1) // 2, total // 2)]
            medians.append((ordered[middle[0]] + ordered[middle[1]]) / 2)
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

        estimate = self.mean(values)
        trials = stats.binomtest(round(estimate.value * self.items), self.items)
        wilson = trials.proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(
            estimate.value, min(estimate.low, wilson.low), max(estimate.high, wilson.high)
        )

    def median(self, values: np.ndarray) -> Estimate:
        """Estimate a median."""
        return Estimate.of(float(np.median(values)), self.medians(values))

    def _parts(self, dtype: Any) -> Iterator[np.ndarray]:
        for start in range(0, self.resamples, _AT_ONCE):
            yield self.counts[start : start + _AT_ONCE].astype(dtype, copy=False)
