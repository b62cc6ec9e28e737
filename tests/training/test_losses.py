import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.training.gradients import loss_and_gradient
from clip2clap.training.losses import (
    TranslationLoss,
    bank_loss,
    contrastive_loss,
    cosine_loss,
    distinct_targets,
    infonce_loss,
    mse_loss,
)

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES: list[Loss] = [cosine_loss, mse_loss, contrastive_loss, infonce_loss]
batches = st.tuples(st.integers(1, 12), st.integers(2, 9), st.integers(0, 10_000))


def pairs(batch: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    n, d, seed = batch
    generator = torch.Generator().manual_seed(seed)
    sides = torch.randn(2, n, d, generator=generator, dtype=torch.float64).float()
    return F.normalize(sides[0], dim=-1), F.normalize(sides[1], dim=-1)


def slow_nt_xent(predicted: Tensor, target: Tensor, temperature: float) -> float:
    """SimCLR's loss as its paper writes it: a sum over positive pairs (i, j) and (j, i)."""
    z = [*predicted.tolist(), *target.tolist()]

    def similarity(u: list[float], v: list[float]) -> float:
        dot = sum(a * b for a, b in zip(u, v, strict=True))
        return dot / math.hypot(*u) / math.hypot(*v)

    def loss_of(i: int, j: int) -> float:
        others = sum(
            math.exp(similarity(z[i], z[k]) / temperature) for k in range(len(z)) if k != i
        )
        return -math.log(math.exp(similarity(z[i], z[j]) / temperature) / others)

    n = len(predicted)
    return sum(loss_of(k, k + n) + loss_of(k + n, k) for k in range(n)) / (2 * n)


@settings(deadline=None, max_examples=30)
@given(batches, st.floats(0.1, 2))
def test_contrastive_equals_simclr_in_loops(batch: tuple[int, int, int], temperature: float):
    predicted, target = pairs(batch)
    ours = contrastive_loss(3 * predicted, target, temperature=temperature).item()
    assert ours == pytest.approx(slow_nt_xent(predicted, target, temperature), rel=1e-4, abs=1e-5)


def test_contrastive_defaults_to_the_references_temperature():
    predicted, target = pairs((6, 5, 0))
    assert contrastive_loss(predicted, target).item() == pytest.approx(
        slow_nt_xent(predicted, target, 0.5), rel=1e-5
    )


def test_infonce_looks_across_the_two_sides_only():
    predicted, target = pairs((5, 4, 0))
    expected = 0.0
    for one, other in ((predicted, target), (target, predicted)):
        for i in range(5):
            logits = [(one[i] @ other[k]).item() / 0.2 for k in range(5)]
            expected -= math.log(math.exp(logits[i]) / sum(map(math.exp, logits))) / 10
    assert infonce_loss(predicted, target, logit_scale=5).item() == pytest.approx(expected, 1e-5)


def test_cosine_and_mse_have_their_known_values():
    predicted = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    target = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert cosine_loss(predicted, target).item() == pytest.approx((0 + 1 + 2) / 3)
    assert mse_loss(predicted, target).item() == pytest.approx((0 + 5 + 16) / 6)


@settings(deadline=None)
@given(batches)
def test_mse_of_unit_vectors_is_the_cosine_loss_times_two_over_d(batch: tuple[int, int, int]):
    predicted, target = pairs(batch)
    scaled = 2 / batch[1] * cosine_loss(predicted, target)
    torch.testing.assert_close(mse_loss(predicted, target), scaled)


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=25)
@given(batches, st.randoms(use_true_random=False))
def test_reordering_pairs_together_changes_nothing(loss: Loss, batch, random):
    predicted, target = pairs(batch)
    order = list(range(batch[0]))
    random.shuffle(order)
    torch.testing.assert_close(loss(predicted[order], target[order]), loss(predicted, target))


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=25)
@given(batches)
def test_turning_the_whole_space_changes_nothing(loss: Loss, batch: tuple[int, int, int]):
    predicted, target = pairs(batch)
    noise = torch.randn(batch[1], batch[1], generator=torch.Generator().manual_seed(batch[2]))
    turn, _ = torch.linalg.qr(noise)
    torch.testing.assert_close(
        loss(predicted @ turn, target @ turn), loss(predicted, target), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("loss", LOSSES)
@settings(deadline=None, max_examples=25)
@given(batches)
def test_exchanging_the_sides_changes_nothing(loss: Loss, batch: tuple[int, int, int]):
    predicted, target = pairs(batch)
    torch.testing.assert_close(loss(target, predicted), loss(predicted, target))


@pytest.mark.parametrize("loss", [cosine_loss, contrastive_loss, infonce_loss])
@settings(deadline=None, max_examples=25)
@given(batches, st.floats(0.01, 100))
def test_the_length_of_a_vector_does_not_count(loss: Loss, batch, length: float):
    predicted, target = pairs(batch)
    torch.testing.assert_close(
        loss(length * predicted, target), loss(predicted, target), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_following_the_gradient_finds_the_target(loss: Loss):
    predicted, target = pairs((8, 6, 0))
    guess = predicted.clone().requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss(guess, target).backward()
        optimizer.step()
    found = (F.normalize(guess.detach(), dim=-1) @ target.T).argmax(1)
    assert found.tolist() == list(range(8))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_one_pair_has_finite_gradients(loss: Loss):
    predicted, target = pairs((1, 4, 0))
    predicted.requires_grad_()
    loss(predicted, target).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_a_learnt_temperature_moves_and_stays_in_bounds():
    loss = TranslationLoss("infonce", learn_temperature=True)
    assert loss.temperatures["infonce"] == pytest.approx(0.07)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1.0)
    predicted, _ = pairs((8, 6, 0))
    for _ in range(10):
        optimizer.zero_grad()
        loss(predicted, predicted).backward()
        optimizer.step()
        loss.keep_scale_in_bounds()
    assert loss.temperatures["infonce"] == pytest.approx(0.01)


def test_the_bank_loss_is_a_softmax_over_every_distinct_target():
    predicted, target = pairs((5, 4, 0))
    bank = distinct_targets(torch.cat([target, target[:2], pairs((9, 4, 1))[1]]))
    assert len(bank) == 14
    scale = torch.tensor(5.0, requires_grad=True)
    predicted.requires_grad_()
    logits = scale * F.normalize(predicted, dim=-1) @ bank.float().T
    truth = (target @ bank.float().T).argmax(1)
    expected = F.cross_entropy(logits, truth)
    ours = bank_loss(predicted, target, bank, logit_scale=scale)
    assert ours.item() == pytest.approx(expected.item(), abs=2e-3)
    wanted = torch.autograd.grad(expected, [predicted, scale])
    for got, want in zip(torch.autograd.grad(ours, [predicted, scale]), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-2, atol=2e-3)


def test_the_bank_is_compared_in_chunks():
    predicted, target = pairs((6, 4, 0))
    bank = distinct_targets(target)
    whole = bank_loss(predicted, target, bank)
    torch.testing.assert_close(bank_loss(predicted, target, bank, chunk_rows=2), whole)


def test_a_sum_of_losses_is_their_weighted_sum():
    predicted, target = pairs((6, 5, 0))
    loss = TranslationLoss("cosine:2+infonce:0.5+mse", temperature=0.1)
    expected = (
        2 * cosine_loss(predicted, target)
        + 0.5 * infonce_loss(predicted, target, logit_scale=10)
        + mse_loss(predicted, target)
    )
    torch.testing.assert_close(loss(predicted, target), expected)
    assert loss.temperatures == {"infonce": 0.1}
    with pytest.raises(UserError, match="needs the bank"):
        TranslationLoss("bank")(predicted, target)


def test_a_fixed_temperature_has_nothing_to_learn():
    loss = TranslationLoss("infonce", temperature=0.2)
    assert not list(loss.parameters())
    predicted, target = pairs((5, 4, 0))
    assert torch.equal(
        loss(predicted, target), infonce_loss(predicted, target, logit_scale=1 / 0.2)
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "l1"}, r"cosine, mse, contrastive, infonce, bank, .*got 'l1'"),
        ({"name": "cosine", "temperature": 0.5}, "cosine loss has no temperature"),
        ({"name": "infonce", "temperature": 0.0}, "positive temperature"),
        ({"name": "mse", "learn_temperature": True}, "mse loss has no temperature"),
        ({"name": "cosine:1+cosine:2"}, "names cosine twice"),
        ({"name": "cosine:0"}, "positive weight after cosine:, got '0'"),
        ({"name": "cosine:much"}, "positive weight after cosine:, got 'much'"),
        ({"name": "cosine+"}, "got 'cosine\\+'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        TranslationLoss(**arguments)


@pytest.mark.parametrize("loss", LOSSES)
def test_sides_that_do_not_pair_are_refused(loss: Loss):
    for predicted, target in [
        (torch.ones(3, 4), torch.ones(2, 4)),
        (torch.ones(3, 4), torch.ones(3, 5)),
        (torch.ones(4), torch.ones(4)),
        (torch.ones(0, 4), torch.ones(0, 4)),
    ]:
        with pytest.raises(UserError, match="one shape"):
            loss(predicted, target)


@pytest.mark.parametrize(
    "spec",
    ["cosine", "mse", "contrastive", "infonce", "cosine:0.5+mse:3+contrastive:0.1", "mse+infonce"],
)
@pytest.mark.parametrize("n", [1, 7])
def test_the_gradient_written_out_is_the_losses_own(spec: str, n: int):
    generator = torch.Generator().manual_seed(0)
    translated = 3 * torch.randn(n, 5, generator=generator)
    target = F.normalize(torch.randn(n, 5, generator=generator), dim=-1)
    loss = TranslationLoss(spec)
    leaf = translated.clone().requires_grad_()
    expected = loss(F.normalize(leaf, dim=-1), target)
    expected.backward()
    value, gradient = loss_and_gradient(loss, translated, target, None)
    torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-4, atol=1e-6)


def test_a_temperature_that_is_learnt_gets_its_gradient_too():
    predicted, target = pairs((6, 5, 0))
    loss = TranslationLoss("contrastive", learn_temperature=True)
    loss(predicted, target).backward()
    (scale,) = loss.parameters()
    expected = scale.grad
    loss_and_gradient(loss, predicted, target, None)
    torch.testing.assert_close(scale.grad, expected)
