"""Distances between sets against known values."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from clip2clap.core.errors import UserError
from clip2clap.metrics.distribution import frechet_distance, kernel_distance


def gaussian(n: int, mean: np.ndarray, factor: np.ndarray, seed: int) -> np.ndarray:
    """Draw vectors whose mean and covariance are exactly those asked for."""
    d = len(mean)
    white = np.random.default_rng(seed).normal(size=(n, d))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T)).T)
    return mean + white @ factor.T


def test_frechet_distance_has_its_closed_form_on_gaussians() -> None:
    # Covariances that share their axes: the distance is that of means and deviations.
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    means, deviations = rng.normal(size=(2, 6)), rng.uniform(0.2, 2, size=(2, 6))
    sides = [gaussian(300 + 50 * at, means[at], axes * deviations[at], seed=at) for at in range(2)]
    expected = ((means[0] - means[1]) ** 2).sum() + ((deviations[0] - deviations[1]) ** 2).sum()
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=20)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(2, 12), st.integers(0, 100))
def test_frechet_distance_equals_the_matrix_roots(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
    other = rng.normal(size=(m, d)) + rng.normal(size=d)
    covariances = [np.cov(side.T) + 1e-9 * np.eye(d) for side in (one, other)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = (
        ((one.mean(0) - other.mean(0)) ** 2).sum()
        + sum(np.trace(covariance) for covariance in covariances)
        - 2 * np.trace(root)
    )
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-3, abs=2e-3)
    assert frechet_distance(other, one) == pytest.approx(frechet_distance(one, other))


def test_a_set_is_at_no_distance_from_itself_though_it_is_small() -> None:
    few = np.random.default_rng(0).normal(size=(5, 40))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(few, few + 1) == pytest.approx(40)


def test_kernel_distance_equals_loops_and_tells_sets_apart_whatever_their_size() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(7, 3)) + 0.5, rng.normal(size=(9, 3))
    apart = [np.linalg.norm(a - b) for i, a in enumerate(other) for b in other[:i]]
    width = np.median(apart)

    def mean(left: np.ndarray, right: np.ndarray, skip: bool) -> np.floating:
        return np.mean(
            [
                np.exp(-(np.linalg.norm(a - b) ** 2) / (2 * width**2))
                for i, a in enumerate(left)
                for j, b in enumerate(right)
                if not (skip and i == j)
            ]
        )

    expected = mean(one, one, True) + mean(other, other, True) - 2 * mean(one, other, False)
    assert kernel_distance(one, other) == pytest.approx(expected)
    alike = [
        kernel_distance(rng.normal(size=(n, 8)), rng.normal(size=(60, 8)))
        for n in (10, 60)
        for _ in range(40)
    ]
    assert np.mean(alike[:40]) == pytest.approx(0, abs=0.01)
    assert np.mean(alike[40:]) == pytest.approx(0, abs=0.01)
    assert kernel_distance(rng.normal(size=(10, 8)) + 1, rng.normal(size=(60, 8))) > 0.1


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_sets_without_a_distance_are_refused(distance: Any) -> None:
    some = np.ones((3, 2))
    for one, other in ((some[:1], some), (some, np.ones((3, 4))), (some[0], some)):
        with pytest.raises(UserError, match="two sets"):
            distance(one, other)
    with pytest.raises(UserError, match="NaN"):
        distance(some * np.nan, some)
