"""Loss of translated vectors with its gradient, written out for the reference's three losses.

For a batch of 64 on a CPU, autograd's many small steps are slower than a layer's matrix products.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.training.config import LossName
from clip2clap.training.losses import TranslationLoss

# torch.nn.functional.normalize's.
_MIN_NORM = 1e-12


@torch.no_grad()
def loss_and_gradient(
    loss: TranslationLoss, translated: Tensor, target: Tensor, bank: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Compute the loss of vectors (n, d) of any norm after normalization, and its gradient by them.

    Gradients of learned temperatures are set too. The targets are of unit norm; the `bank` loss
    needs the distinct targets of all pairs.
    """
    if loss.log_scales or not all(term in _GRADIENTS for term in loss.terms):
        return _by_autograd(loss, translated, target, bank)
    norms = torch.linalg.vector_norm(translated, dim=1, keepdim=True).clamp_min_(_MIN_NORM)
    units = translated / norms
    value, by_units = units.new_zeros(()), torch.zeros_like(units)
    for term, weight in loss.terms.items():
        part, by_part = _GRADIENTS[term](units, target, loss.start.get(term, 1.0))
        value.add_(part, alpha=weight)
        by_units.add_(by_part, alpha=weight)
    # The component along a vector changes its length alone, which has no influence.
    along = (by_units * units).sum(1, keepdim=True)
    return value, by_units.addcmul_(units, along, value=-1).div_(norms)


def _by_autograd(
    loss: TranslationLoss, translated: Tensor, target: Tensor, bank: Tensor | None
) -> tuple[Tensor, Tensor]:
    loss.zero_grad()
    leaf = translated.detach().requires_grad_()
    with torch.enable_grad():
        value = loss(unit_norm(leaf), target, bank)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def _cosine(units: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    n = len(units)
    return 1 - torch.dot(units.flatten(), target.flatten()) / n, target / -n


def _mse(units: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    # Of unit vectors it is the cosine loss times 2 / d.
    value, by_units = _cosine(units, target, temperature)
    factor = 2 / units.shape[1]
    return value * factor, by_units.mul_(factor)


def _contrastive(units: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    n = len(units)
    vectors = torch.cat([units, target])
    similarities = (vectors @ vectors.T).div_(temperature).fill_diagonal_(float("-inf"))
    log_sums = similarities.logsumexp(1, keepdim=True)
    value = log_sums.mean() - similarities.diagonal(n).mean()
    shares = similarities.sub_(log_sums).exp_()
    # Each similarity is in the rows of both its vectors; those of partners should be 1 in both.
    pulls = shares[:n] + shares[:, :n].T
    pulls.diagonal(n).sub_(2)
    return value, (pulls @ vectors).div_(2 * n * temperature)


# Value, and gradient by unit vectors, of which only the component across them counts.
_GRADIENTS: dict[LossName, Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]] = {
    "cosine": _cosine,
    "mse": _mse,
    "contrastive": _contrastive,
}
