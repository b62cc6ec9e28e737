"""Significant differences between evaluations."""

import re
from pathlib import Path

import numpy as np

from clip2clap.evaluation.comparison import compare_results
from clip2clap.evaluation.results import Results
from clip2clap.metrics.bootstrap import Resamples
from clip2clap.training.pairs import Pairs

from .builders import (
    Run,
    fitted,
    noise,
    pairs_of,
    results_of,
    shuffled,
)


def test_a_real_difference_is_distinguished_from_chance(tmp_path: Path) -> None:
    good = fitted(pairs_of()[0])
    nearly = fitted(pairs_of(seed=1)[0])
    lost = fitted(shuffled(pairs_of()[0]))
    (tmp_path / "a").mkdir()
    results_of({"good": good}).write(tmp_path / "a")
    one = Results.read(tmp_path / "a" / "results.json")
    by_name = {d.metric: d for d in compare_results(one, results_of({"lost": lost}))}
    for figure in ("recall_at_1", "recall_at_10", "mrr", "median_rank", "cosine", "reverse_mrr"):
        assert by_name[figure].is_significant
        assert by_name[figure].difference.low * by_name[figure].difference.high > 0
    assert by_name["mrr"].difference.value > 0 > by_name["median_rank"].difference.value
    again = compare_results(one, results_of({"good": good}))
    assert {d.difference.value for d in again} == {0.0}
    assert not any(d.is_significant for d in again)
    alike = compare_results(one, results_of({"nearly": nearly}))
    assert sum(d.is_significant for d in alike) <= 1


def test_pairing_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)
    draws = Resamples(range(300))
    one, other = hard + 0.1, hard + 0.02 * rng.normal(size=300)
    apart = draws.mean(one), draws.mean(other)
    assert apart[0].low < apart[1].high
    assert np.quantile(draws.means(one) - draws.means(other), 0.001) > 0


def test_differences_by_chance_alone_are_rarely_called_real() -> None:
    # Sides that have nothing to do with each other: no translator is better than another, in
    # twenty-eight comparisons of each figure.
    nothing = Pairs(noise(100, 16, seed=70), noise(100, 12, seed=71))
    translators = {str(seed): fitted(pairs_of(seed=seed)[0]) for seed in range(8)}
    found = compare_results(results_of(translators, pairs=nothing), resamples=2000)
    retrieval = [d for d in found if d.metric in ("recall_at_5", "mrr", "reverse_mrr")]
    assert len(retrieval) == 3 * 28
    assert not any(d.is_significant for d in retrieval)


def test_evaluations_of_other_rows_are_not_compared(tmp_path: Path, run: Run) -> None:
    good = {"good": fitted(pairs_of()[0])}
    results_of(good).write(tmp_path / "a")
    results_of(good, seed=51).write(tmp_path / "b")
    code, _, err = run("evaluate", "--compare", tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert "different rows" in err
    code, _, err = run("evaluate", "--compare", tmp_path / "a")
    assert code == 2
    assert "no two translators" in err
    results_of({"good": good["good"], "lost": fitted(shuffled(pairs_of()[0]))}).write(
        tmp_path / "c"
    )
    code, out, _ = run("evaluate", "--compare", tmp_path / "a", tmp_path / "c" / "results.json")
    assert code == 0
    assert re.search(r"mrr +good - lost .* significant", out)
    assert re.search(r"mrr +good - good \(second\) +\+0 ", out)
