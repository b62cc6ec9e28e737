"""Evaluation of translators of known worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    SpaceMismatchError,
)
from clip2clap.evaluation.translation import (
    EmbeddingEvaluation,
    evaluate,
    hubness,
)
from clip2clap.metrics.bootstrap import Resamples
from clip2clap.training.pairs import Pairs
from clip2clap.translator.linear import fit_ridge

from .builders import (
    CLAP,
    CLASSES,
    fitted,
    noise,
    pairs_of,
    shuffled,
    sides,
)


@pytest.fixture(scope="module")
def evaluation() -> EmbeddingEvaluation:
    """A fitted translator and one of noise on pairs that neither has seen."""
    pairs, labels = pairs_of(seed=50)
    translators = {"fitted": fitted(pairs_of()[0]), "lost": fitted(shuffled(pairs_of()[0]))}
    return evaluate(translators, pairs, labels=labels)


def test_random_vectors_are_found_as_often_as_chance_has_it() -> None:
    pairs = Pairs(noise(400, 16, seed=100), noise(400, 12, seed=101))
    scores = evaluate({"any": fitted(pairs_of()[0])}, pairs).translators[0].scores
    for direction in (scores.forward, scores.backward, scores.csls):
        for k in (1, 5, 10):
            figure = direction[f"recall_at_{k}"]
            assert figure.low <= k / 400 <= figure.high
        assert direction["median_rank"].low <= 200 <= direction["median_rank"].high


def test_identical_sides_are_perfect() -> None:
    pairs, labels = pairs_of(60)
    target = sides(pairs)[1]
    same = Pairs(target, target)
    identity = fit_ridge(target, target, alpha=0.0, center=False)
    scores = evaluate({"same": identity}, same, labels=labels).translators[0].scores
    for direction in (scores.forward, scores.backward):
        assert {direction[name].value for name in direction} == {1}
    assert scores.cosine.value == pytest.approx(1)
    assert scores.gap_distance.value == pytest.approx(0, abs=1e-4)


def test_a_fitted_translator_beats_its_controls_and_one_of_shuffled_pairs_does_not(
    evaluation: EmbeddingEvaluation,
) -> None:
    good, lost = evaluation.translators
    chance = 10 / 240
    assert good.scores.forward["recall_at_10"].low > 5 * chance
    assert good.scores.backward["recall_at_10"].low > 5 * chance
    assert good.scores.cosine.low > evaluation.mean_vector.cosine.high + 0.2
    for control in (good.shuffled, evaluation.mean_vector, lost.scores):
        assert control.forward["recall_at_10"].value == pytest.approx(chance, abs=0.05)
    # Seen from the targets, an answer that is always the same finds nothing.
    assert evaluation.mean_vector.backward["recall_at_10"].value == 0
    assert evaluation.mean_vector.hubness.value > 3 * good.scores.hubness.value


def test_classes_are_distinguished_unless_pairs_are_shuffled(
    evaluation: EmbeddingEvaluation,
) -> None:
    good, lost = evaluation.translators
    kinds = good.scores.nearest_label
    assert kinds is not None
    assert kinds.names == list(CLASSES)
    assert kinds.accuracy.low > 0.8
    assert kinds.accuracy.value == pytest.approx(np.trace(kinds.confusion) / 240)
    assert kinds.balanced == pytest.approx(kinds.accuracy.value)
    for control in (good.shuffled, evaluation.mean_vector, lost.scores):
        assert control.nearest_label is not None
        assert control.nearest_label.accuracy.value == pytest.approx(0.25, abs=0.1)


def test_metrics_are_those_of_the_rows(evaluation: EmbeddingEvaluation) -> None:
    rows, scores = evaluation.per_row, evaluation.translators[0].scores
    assert scores.forward["recall_at_5"].value == np.mean(rows["fitted/forward"] <= 5)
    assert scores.backward["mrr"].value == pytest.approx(np.mean(1 / rows["fitted/backward"]))
    assert scores.cosine == Resamples(range(240)).mean(rows["fitted/cosine"])


def test_hubness_and_gap_have_their_known_values() -> None:
    # Everything points near one target, which is then everyone's neighbour.
    gap = torch.tensor([0.0, 1.0])
    target = unit_norm(torch.cat([noise(50, 2) * 0.1 + torch.tensor([1.0, 0.0]), gap[None]]))
    same = Pairs(unit_norm(target @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), target)
    turn = fit_ridge(target, target, alpha=0.0, center=False)
    found = evaluate({"none": turn}, same)
    assert found.gap_before is not None
    # A quarter turn between the means, whose lengths are alike.
    assert found.gap_before["angle"].value == pytest.approx(90, abs=1e-3)
    length = target.mean(0).norm().item()
    assert found.gap_before["distance"].value == pytest.approx(length * 2**0.5, abs=1e-4)
    for figure in found.gap_before.values():
        assert figure.low < figure.value < figure.high
    counts = np.bincount([0] * 30 + [1] * 5 + [2] * 5, minlength=40)
    skewness = hubness(counts, Resamples(range(40), resamples=2000))
    assert skewness.value == pytest.approx(float(stats.skew(counts)))
    assert skewness.low <= skewness.value <= skewness.high
    assert hubness(np.ones(40), Resamples(range(40))).value == 0


def test_rows_of_one_item_widen_the_interval() -> None:
    pairs, _ = pairs_of(200)
    source, target = (side.repeat_interleave(5, 0) for side in sides(pairs))
    five = Pairs(source, target)
    clips = [str(i // 5) for i in range(1000)]
    translators = {"fitted": fitted(pairs_of(seed=9)[0])}
    apart = evaluate(translators, five).translators[0].scores.cosine
    together = evaluate(translators, replace(five, items=clips))
    held = together.translators[0].scores.cosine
    assert together.gallery == 200
    assert (held.high - held.low) / (apart.high - apart.low) == pytest.approx(5**0.5, rel=0.2)


def test_what_cannot_be_measured_is_refused() -> None:
    pairs, labels = pairs_of(20)
    translator = fitted(pairs)
    with pytest.raises(UserError, match="no translator"):
        evaluate({}, pairs)
    with pytest.raises(UserError, match="one item"):
        evaluate({"a": translator}, replace(pairs, items=["x"] * 20))
    with pytest.raises(UserError, match="label for each of 20 rows, got 19"):
        evaluate({"a": translator}, pairs, labels=labels[1:])
    foreign = replace(CLAP, fingerprint="other")
    with pytest.raises(SpaceMismatchError, match="target"):
        evaluate({"a": translator}, replace(pairs, target_space=foreign))
    broken = sides(pairs)[0].clone()
    broken[3, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        evaluate({"a": translator}, replace(pairs, source=broken))
