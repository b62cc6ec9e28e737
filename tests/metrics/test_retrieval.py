import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.metrics import retrieval as metrics
from clip2clap.metrics.retrieval import measure_retrieval, retrieval_metrics


def noise(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def circle(*degrees: float) -> Tensor:
    return torch.tensor([[math.cos(math.radians(a)), math.sin(math.radians(a))] for a in degrees])


def test_ranks_count_the_vectors_that_are_nearer():
    target = circle(0, 90, 180)
    predicted = circle(10, 10, 100)
    # From 10 degrees: 0, then 90, then 180. From 100 degrees: 90, then 180, then 0.
    assert measure_retrieval(predicted, target).forward.tolist() == [1, 2, 2]


def test_summaries_have_their_known_values():
    # Ranks 1, 2, 3, 3: from 100 degrees the target at 0 is the last.
    target = circle(0, 90, 180)[[0, 1, 2, 0]]
    predicted = circle(10, 10, 10, 100)
    assert measure_retrieval(predicted, target).forward.tolist() == [1, 2, 3, 3]
    found = retrieval_metrics(predicted, target)
    assert found["recall_at_1"] == 0.25
    assert found["recall_at_5"] == 1
    assert found["median_rank"] == 2.5
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 3) / 4)


def test_equal_targets_count_once():
    target = circle(0, 0, 0, 90, 90)
    predicted = circle(5, 5, 80, 80, 5)
    assert measure_retrieval(predicted, target).forward.tolist() == [1, 1, 2, 1, 2]
    assert retrieval_metrics(predicted, target)["gallery"] == 2


def test_ties_count_against_us():
    # The answer is as far from all four.
    target = torch.eye(4)
    assert measure_retrieval(torch.ones(4, 4), target).forward.tolist() == [4, 4, 4, 4]
    # One answer for all is never the one that was meant, seen from the targets.
    assert measure_retrieval(torch.ones(4, 4), target).backward.tolist() == [4, 4, 4, 4]
    # Nor do vectors win that differ by rounding alone.
    twins = torch.cat([noise(1, 64), noise(1, 64) * (1 + 1e-7)])
    twins[1, 0] += 1e-6
    assert measure_retrieval(twins, twins).forward.tolist() == [2, 2]


def test_backwards_the_predictions_for_an_equal_target_are_left_out():
    target = circle(0, 0, 90, 180)
    predicted = circle(40, 10, 30, 170)
    # From 0 degrees: 10, 30, 40, 170, of which 10 and 40 stand for 0 degrees.
    # From 90: 40, 30, 10, 170.
    assert measure_retrieval(predicted, target).backward.tolist() == [2, 1, 2, 1]


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 30), st.integers(1, 30), st.integers(0, 1000))
def test_both_directions_equal_loops_with_repeated_targets(n: int, m: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(m, (n,), generator=generator)
    predicted, target = noise(n, 5, seed), noise(m, 5, seed + 1)[truth]
    similar = torch.nn.functional.cosine_similarity(
        predicted[:, None].double(), target[None].double(), dim=-1
    )
    forward, backward = [], []
    for i in range(n):
        others = {int(truth[j]): similar[i, j] for j in range(n) if truth[j] != truth[i]}
        forward.append(1 + sum(bool(s >= similar[i, i]) for s in others.values()))
        backward.append(
            1 + sum(bool(similar[j, i] >= similar[i, i]) for j in range(n) if truth[j] != truth[i])
        )
    assert measure_retrieval(predicted, target).forward.tolist() == forward
    assert measure_retrieval(predicted, target).backward.tolist() == backward


def test_neighbours_and_csls_equal_their_definition(monkeypatch: pytest.MonkeyPatch):
    predicted, target = noise(40, 6), noise(40, 6, seed=1)
    target[7] = target[3]
    monkeypatch.setattr(metrics, "TILE", 9)
    found = measure_retrieval(predicted, target, neighbors=3)

    kept = [i for i in range(40) if i != 7]
    unit = torch.nn.functional.normalize
    similar = unit(predicted) @ unit(target[kept]).T
    crowding = similar.topk(3, dim=0).values.mean(0)
    density = similar.topk(3, dim=1).values.mean(1)
    scaled = 2 * similar - density[:, None] - crowding[None]
    truth = [kept.index(3 if i == 7 else i) for i in range(40)]
    for scores, ranks, counts in (
        (similar, found.forward, found.occurrences),
        (scaled, found.csls, found.csls_occurrences),
    ):
        expected = [int((scores[i] >= scores[i, t]).sum()) for i, t in enumerate(truth)]
        assert ranks.tolist() == expected
        nearest = scores.topk(3, dim=1).indices.flatten()
        assert counts.tolist() == nearest.bincount(minlength=39).tolist()
    assert torch.equal(found.forward, measure_retrieval(predicted, target).forward)
    assert torch.equal(found.backward, measure_retrieval(predicted, target).backward)


def test_a_constant_answer_is_right_as_often_as_chance():
    target = noise(200, 16)
    ranks = measure_retrieval(noise(1, 16, seed=1).expand(200, -1), target).forward
    assert sorted(ranks.tolist()) == list(range(1, 201))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(2, 8), st.integers(0, 1000))
def test_ranks_equal_a_sort_in_loops(n: int, d: int, seed: int):
    predicted, target = noise(n, d, seed), noise(n, d, seed + 1)
    cosines = torch.nn.functional.cosine_similarity(predicted[:, None], target[None], dim=-1)
    expected = [
        sorted(row, reverse=True).index(row[i]) + 1 for i, row in enumerate(cosines.tolist())
    ]
    ranks = measure_retrieval(predicted, target).forward
    assert (ranks - torch.tensor(expected)).abs().max() <= 1
    assert (ranks == torch.tensor(expected)).float().mean() > 0.9


@settings(deadline=None, max_examples=30)
@given(st.permutations(range(12)))
def test_reordering_pairs_together_reorders_the_ranks(order: list[int]):
    predicted, target = noise(12, 4), noise(12, 4, seed=1)
    ranks = measure_retrieval(predicted, target).forward
    assert torch.equal(measure_retrieval(predicted[order], target[order]).forward, ranks[order])


def test_ranking_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    predicted, target = noise(30, 8), noise(30, 8, seed=1)
    whole = measure_retrieval(predicted, target).forward
    monkeypatch.setattr(metrics, "TILE", 7)
    assert torch.equal(measure_retrieval(predicted, target).forward, whole)


def test_metrics_are_perfect_for_the_truth_and_at_chance_for_noise():
    target = noise(1000, 32)
    truth = retrieval_metrics(5 * target, target)
    assert truth["mrr"] == truth["recall_at_1"] == truth["median_rank"] == 1
    assert truth["cosine"] == pytest.approx(1)
    chance = retrieval_metrics(noise(1000, 32, seed=1), target)
    assert chance["median_rank"] == pytest.approx(500, abs=60)
    assert chance["recall_at_10"] == pytest.approx(0.01, abs=0.01)
    assert chance["cosine"] == pytest.approx(0, abs=0.02)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(UserError, match="one shape"):
        measure_retrieval(noise(3, 4), noise(2, 4))
    with pytest.raises(UserError, match="predictions hold NaN"):
        measure_retrieval(torch.full((2, 2), float("nan")), noise(2, 2))
    with pytest.raises(UserError, match="n > 0"):
        retrieval_metrics(noise(0, 4), noise(0, 4))
    with pytest.raises(UserError, match="at least 1"):
        measure_retrieval(noise(3, 4), noise(3, 4), neighbors=0)
