"""What a translator is trained to make small: four losses over a batch of pairs."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.embeddings import UserError, unit_norm

LossName = Literal["cosine", "mse", "contrastive", "infonce"]

DEFAULT_TEMPERATURES: dict[LossName, float] = {"contrastive": 0.5, "infonce": 0.07}

# As open_clip does: a learnt scale above this lets single pairs dominate the gradient.
_MAX_LOGIT_SCALE = 100.0


def cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Give the mean of 1 - cosine similarity over the pairs.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm.

    Returns:
        A scalar from 0 to 2.

    Raises:
        UserError: If the shapes differ, or there are no pairs.
    """
    _check_batch(predicted, target)
    return (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()


def mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Give the mean squared difference over all elements.

    For unit vectors it is the cosine loss times 2 / d.

    Args:
        predicted: Shape (n, d).
        target: The true vectors, shape (n, d).

    Returns:
        A scalar.

    Raises:
        UserError: If the shapes differ, or there are no pairs.
    """
    _check_batch(predicted, target)
    return F.mse_loss(predicted, target)


def contrastive_loss(predicted: Tensor, target: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Give SimCLR's NT-Xent over the 2n vectors of both sides.

    Each prediction and each target is to find its partner among all the other 2n - 1 vectors, those
    of its own side included; see Chen et al. (2020), https://arxiv.org/abs/2002.05709.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm.
        temperature: What similarities are divided by.

    Returns:
        A scalar, the mean over the 2n vectors. It depends on n.

    Raises:
        UserError: If the shapes differ, there are no pairs, or the temperature isn't positive.
    """
    _check_batch(predicted, target)
    _check_temperature(temperature)
    vectors = torch.cat([unit_norm(predicted), unit_norm(target)])
    similarities = vectors @ vectors.T / temperature
    similarities.fill_diagonal_(float("-inf"))
    n = len(predicted)
    partners = torch.arange(2 * n, device=vectors.device).roll(n)
    return F.cross_entropy(similarities, partners)


def infonce_loss(
    predicted: Tensor, target: Tensor, *, logit_scale: Tensor | float = 1 / 0.07
) -> Tensor:
    """Give CLIP's symmetric loss: each prediction is to find its target, and the reverse.

    Only vectors of the other side count as negatives; see Radford et al. (2021),
    https://arxiv.org/abs/2103.00020.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm.
        logit_scale: What similarities are multiplied by, 1 / temperature.

    Returns:
        A scalar, the mean of both directions. It depends on n.

    Raises:
        UserError: If the shapes differ, or there are no pairs.
    """
    _check_batch(predicted, target)
    logits = logit_scale * unit_norm(predicted) @ unit_norm(target).T
    truth = torch.arange(len(predicted), device=predicted.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


class TranslationLoss(nn.Module):
    """A loss by its name, with the temperature it learns, if it does.

    Args:
        name: `cosine`, `mse`, `contrastive` (NT-Xent) or `infonce`.
        temperature: For the latter two; by default 0.5 and 0.07.
        learn_temperature: Whether `infonce` adjusts it, as CLIP and open_clip do.

    Raises:
        UserError: If there is no such loss, or the temperature makes no sense for it.
    """

    def __init__(
        self,
        name: LossName,
        *,
        temperature: float | None = None,
        learn_temperature: bool = False,
    ):
        super().__init__()
        check_loss(name, temperature=temperature, learn_temperature=learn_temperature)
        self.name: LossName = name
        self.start = temperature or DEFAULT_TEMPERATURES.get(name, 1.0)
        self.log_scale: nn.Parameter | None = None
        if learn_temperature:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(self.start)))

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Compare predictions with the true vectors, both of shape (n, d)."""
        if self.name == "cosine":
            return cosine_loss(predicted, target)
        if self.name == "mse":
            return mse_loss(predicted, target)
        if self.name == "contrastive":
            return contrastive_loss(predicted, target, temperature=self.start)
        scale = 1 / self.start if self.log_scale is None else self.log_scale.exp()
        return infonce_loss(predicted, target, logit_scale=scale)

    @property
    def temperature(self) -> float | None:
        """The temperature as it now is; None for a loss without one."""
        if self.name not in DEFAULT_TEMPERATURES:
            return None
        return self.start if self.log_scale is None else math.exp(-self.log_scale.item())

    @torch.no_grad()
    def keep_scale_in_bounds(self) -> None:
        """Bring a learnt scale back between 1 and 100; to be called after each step."""
        if self.log_scale is not None:
            self.log_scale.clamp_(0.0, math.log(_MAX_LOGIT_SCALE))


def check_loss(name: str, *, temperature: float | None, learn_temperature: bool) -> None:
    """Refuse a loss that doesn't exist, or a temperature that makes no sense for it.

    Raises:
        UserError: As said.
    """
    if name not in get_args(LossName):
        names = ", ".join(get_args(LossName))
        raise UserError(f"Expected loss to be one of {names}, got {name!r}.")
    if temperature is not None:
        _check_temperature(temperature)
        if name not in DEFAULT_TEMPERATURES:
            raise UserError(f"The {name} loss has no temperature: leave it out.")
    if learn_temperature and name != "infonce":
        raise UserError(f"Only the infonce loss learns its temperature, not {name}.")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < float("inf"):
        raise UserError(f"Expected a positive temperature, got {temperature!r}.")


def _check_batch(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.dim() != 2 or len(predicted) == 0:
        raise UserError(
            "Expected predictions and targets of one shape (n, d) with n > 0, got "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )
