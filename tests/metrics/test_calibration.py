"""Calibration against scikit-learn, on made items whose probabilities are known."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from clip2clap.core.errors import UserError
from clip2clap.metrics.calibration import (
    Calibration,
    expected_calibration_error,
    fit_calibration,
    reliability,
)


@pytest.fixture(scope="module")
def overconfident() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities whose log odds are twice those that the answers are drawn with."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 1.5, 4_000)
    correct = rng.uniform(size=len(odds)) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-2 * odds)), correct


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_overconfident_probabilities_are_calibrated_on_unseen_items(overconfident, method):
    values, correct = overconfident
    fitted = fit_calibration(values[::2], correct[::2], method=method)
    unseen, answers = values[1::2], correct[1::2]
    assert expected_calibration_error(unseen, answers) > 0.1
    assert expected_calibration_error(fitted(unseen), answers) < 0.04


def test_logistic_calibration_finds_the_slope_that_was_planted(overconfident):
    slope, intercept = fit_calibration(*overconfident).values
    assert slope == pytest.approx(0.5, abs=0.05)
    assert intercept == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("method", ["logistic", "isotonic"])
def test_a_calibration_never_changes_the_order_and_survives_json(overconfident, method):
    fitted = fit_calibration(*overconfident, method=method)
    values = np.array([0, 1e-9, 0.01, 0.3, 0.5, 0.9, 1.0])
    assert (np.diff(fitted(values)) >= 0).all()
    assert ((fitted(values) >= 0) & (fitted(values) <= 1)).all()
    restored = Calibration.from_dict(fitted.to_dict())
    assert np.array_equal(restored(values), fitted(values))


def test_bins_are_those_of_scikit_learn(overconfident):
    values, correct = overconfident
    shares, means = calibration_curve(correct, values, n_bins=10)
    found = reliability(values, correct)
    assert [each.accuracy for each in found] == pytest.approx(list(shares))
    assert [each.probability for each in found] == pytest.approx(list(means))
    assert sum(each.count for each in found) == len(values)


def test_the_error_of_perfect_and_of_inverted_probabilities():
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    assert expected_calibration_error([1.0, 0.0], [False, True]) == 1


@pytest.mark.parametrize(
    ("values", "correct", "message"),
    [
        ([0.5] * 20, [True] * 20, "20 of them right"),
        ([0.5] * 4, [True, False] * 2, "needs 10 items"),
        ([0.5] * 20, [True, False], "as many probabilities"),
    ],
)
def test_too_few_items_are_refused(values, correct, message):
    with pytest.raises(UserError, match=message):
        fit_calibration(values, correct)
