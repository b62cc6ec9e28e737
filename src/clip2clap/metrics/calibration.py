"""Calibration of probabilities, its error, and the reliability diagram."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, get_args

import numpy as np

from clip2clap.core.errors import UserError, expect

Method = Literal["logistic", "isotonic"]

_SMALLEST = 1e-12
_LEAST = 10


@dataclass(frozen=True)
class Calibration:
    """Monotone map from a model's probabilities to how often they are right.

    `logistic` is Platt scaling (Platt 1999) of the log odds, whose slope and intercept are
    `values`; `isotonic` (Zadrozny and Elkan 2002) interpolates between the log odds `knots` and
    the probabilities `values`.

    Examples:
        >>> import numpy as np
        >>> from clip2clap.metrics.calibration import Calibration
        >>> Calibration("logistic", values=(0.5, 0.0))(np.array([0.5, 0.9])).round(2).tolist()
        [0.5, 0.75]
    """

    method: Method
    values: tuple[float, ...]
    knots: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        known = get_args(Method)
        expect(self.method in known, "method", f"one of {', '.join(known)}", self.method)
        pairs = self.method == "logistic" or len(self.knots) == len(self.values) > 0
        if not pairs or (self.method == "logistic" and len(self.values) != 2):
            raise UserError("Expected a slope and an intercept, or a value for each knot.")

    def __call__(self, probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, in the shape given."""
        odds = log_odds(probabilities)
        if self.method == "isotonic":
            return np.interp(odds, self.knots, self.values)
        slope, intercept = self.values
        return 1 / (1 + np.exp(-(slope * odds + intercept)))

    def to_dict(self) -> dict[str, Any]:
        """Return the map as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a map from the values of `to_dict`."""
        return cls(values["method"], tuple(values["values"]), tuple(values.get("knots", ())))


@dataclass(frozen=True)
class ReliabilityBin:
    """Items of similar probability: mean probability, share that is right, and number."""

    probability: float
    accuracy: float
    count: int


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)), finite at 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, float), _SMALLEST, 1 - _SMALLEST)
    return np.log(clipped) - np.log1p(-clipped)


def fit_calibration(
    probabilities: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    *,
    method: Method = "logistic",
) -> Calibration:
    """Fit a calibration on held-out items.

    Args:
        probabilities: Probability of each item, shape (n,).
        correct: True where the item is right, shape (n,).
        method: `"logistic"`, for few items, or `"isotonic"`.

    Raises:
        UserError: If the lengths differ, or there are fewer than ten items, or only right or only
            wrong ones.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    right = np.asarray(correct, bool)
    odds = log_odds(np.asarray(probabilities, float))
    if odds.shape != right.shape or odds.ndim != 1:
        raise UserError(
            f"Expected as many probabilities as answers, got {odds.shape} and {right.shape}."
        )
    if len(odds) < _LEAST or right.all() or not right.any():
        raise UserError(
            f"Calibration needs {_LEAST} items or more, right and wrong ones; got {len(odds)}, "
            f"{int(right.sum())} of them right."
        )
    if method == "isotonic":
        fitted = IsotonicRegression(out_of_bounds="clip").fit(odds, right)
        knots, values = fitted.X_thresholds_, fitted.y_thresholds_
        return Calibration("isotonic", _rounded(values), _rounded(knots))
    # Almost no penalty: one slope cannot overfit.
    fitted = LogisticRegression(C=1e6).fit(odds[:, None], right)
    return Calibration("logistic", _rounded([fitted.coef_[0, 0], fitted.intercept_[0]]))


def reliability(
    probabilities: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    *,
    bins: int = 10,
) -> list[ReliabilityBin]:
    """Group items into bins of equal width by probability; empty bins are left out."""
    values, right = np.asarray(probabilities, float), np.asarray(correct, float)
    places = np.minimum((values * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        inside = places == number
        if inside.any():
            mean, share = float(values[inside].mean()), float(right[inside].mean())
            found.append(ReliabilityBin(mean, share, int(inside.sum())))
    return found


def expected_calibration_error(
    probabilities: Sequence[float] | np.ndarray,
    correct: Sequence[bool] | np.ndarray,
    *,
    bins: int = 10,
) -> float:
    """Compute the mean distance of probability and accuracy over bins, weighted by their counts.

    Naeini et al. (2015), https://ojs.aaai.org/index.php/AAAI/article/view/9602.

    Examples:
        >>> from clip2clap.metrics.calibration import expected_calibration_error
        >>> round(expected_calibration_error([0.9, 0.9], [True, False]), 3)
        0.4
    """
    found = reliability(probabilities, correct, bins=bins)
    total = sum(each.count for each in found)
    return sum(each.count * abs(each.probability - each.accuracy) for each in found) / total


def _rounded(values: Any) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)
