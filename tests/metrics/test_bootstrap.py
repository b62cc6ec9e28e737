"""Intervals of the bootstrap, against scipy's and where the truth is known."""

import numpy as np
import pytest
from scipy import stats

from clip2clap.core.errors import UserError
from clip2clap.metrics.bootstrap import Resamples


def test_intervals_agree_with_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    ours = Resamples(range(200), resamples=4000)
    for figure, statistic in ((ours.mean(values), np.mean), (ours.median(values), np.median)):
        theirs = stats.bootstrap(
            (values,),
            statistic,
            n_resamples=4000,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert figure.value == pytest.approx(statistic(values))
        width = theirs.high - theirs.low
        assert figure.low == pytest.approx(theirs.low, abs=0.08 * width)
        assert figure.high == pytest.approx(theirs.high, abs=0.08 * width)


def test_means_and_medians_of_a_draw_are_those_of_its_rows() -> None:
    items = ["a", "b", "a", "c", "b", "d"]
    values = np.array([1.0, 5.0, 2.0, 7.0, 11.0, 3.0])
    draws = Resamples(items, resamples=60, seed=3)
    names = sorted(set(items))
    for counts, mean, median in zip(
        draws.counts, draws.means(values), draws.medians(values), strict=True
    ):
        assert counts.sum() == 4
        rows = [
            value
            for item, value in zip(items, values, strict=True)
            for _ in range(counts[names.index(item)])
        ]
        assert mean == pytest.approx(np.mean(rows))
        assert median == pytest.approx(np.median(rows))


def test_rows_of_one_item_are_no_evidence_of_their_own() -> None:
    rng = np.random.default_rng(0)
    clips = rng.normal(size=100)
    captions = clips.repeat(5)
    apart = Resamples(range(500)).mean(captions)
    together = Resamples(np.arange(100).repeat(5)).mean(captions)
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(5), rel=0.15)


def test_ninety_five_per_cent_intervals_hold_the_truth_so_often() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        figure = Resamples(range(80), resamples=300, seed=seed).mean(rng.normal(size=80))
        held += figure.low <= 0 <= figure.high
    assert 0.89 <= held / 200 <= 0.99


def test_a_share_of_which_no_draw_knows_is_not_taken_for_certain() -> None:
    none, some = np.zeros(300, bool), np.arange(300) % 3 == 0
    draws = Resamples(range(300))
    assert (draws.mean(none).low, draws.mean(none).high) == (0, 0)
    wilson = stats.binomtest(0, 300).proportion_ci(method="wilson")
    assert draws.share(none).high == pytest.approx(wilson.high)
    assert draws.share(~none).low == pytest.approx(1 - wilson.high)
    assert draws.share(some).low == pytest.approx(draws.mean(some).low, abs=0.01)


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(UserError, match="at least one row"):
        Resamples([])
