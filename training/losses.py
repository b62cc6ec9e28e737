"""Training losses over a batch of vectors, weighted sums of them, and the loss of diffusion priors.

The others take predictions and true targets, both of shape (n, d) with n > 0, of any norm, and
return a scalar; other shapes raise `UserError`.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.metrics.retrieval import check_shapes
from clip2clap.training.config import DEFAULT_TEMPERATURES, LossName, check_loss, parse_loss
from clip2clap.translator.prior import PriorTranslator

# As open_clip does: a learned scale above this lets single pairs dominate the gradient.
_MAX_LOGIT_SCALE = 100.0

# 0 weighs all errors alike; 1 is the "SNR+1" weighting (Salimans and Ho 2022,
# https://arxiv.org/abs/2202.00512). On a known mixture, after short training, 0.75 and 1 give a
# spread that is up to 16 % too wide, this one up to 10 %; on real pairs it makes no difference.
_WEIGHT_POWER = 1.25


def cosine_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of 1 - cosine similarity over the pairs, from 0 to 2."""
    check_shapes(predicted, target)
    return (1 - F.cosine_similarity(predicted, target, dim=-1)).mean()


def mse_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error over all elements, without normalizing them.

    For unit vectors it is the cosine loss times 2 / d.
    """
    check_shapes(predicted, target)
    return F.mse_loss(predicted, target)


def contrastive_loss(
    predicted: Tensor, target: Tensor, *, temperature: Tensor | float = 0.5
) -> Tensor:
    """Compute SimCLR's NT-Xent, the mean over the 2n vectors of both sides.

    Each prediction and each target is matched with its partner among all other 2n - 1 vectors,
    those of its own side included; see Chen et al. (2020), https://arxiv.org/abs/2002.05709. The
    similarities are divided by `temperature`.
    """
    check_shapes(predicted, target)
    # A tensor is a learned temperature, which `keep_scale_in_bounds` watches over.
    if not isinstance(temperature, Tensor) and not 0 < temperature < float("inf"):
        raise UserError(f"Expected a positive temperature, got {temperature!r}.")
    vectors = torch.cat([unit_norm(predicted), unit_norm(target)])
    similarities = vectors @ vectors.T / temperature
    similarities.fill_diagonal_(float("-inf"))
    n = len(predicted)
    partners = torch.arange(2 * n, device=vectors.device).roll(n)
    return F.cross_entropy(similarities, partners)


def infonce_loss(
    predicted: Tensor, target: Tensor, *, logit_scale: Tensor | float = 1 / 0.07
) -> Tensor:
    """Compute CLIP's symmetric loss: matching predictions with targets, and the reverse.

    Only vectors of the other side count as negatives; see Radford et al. (2021),
    https://arxiv.org/abs/2103.00020. The similarities are multiplied by `logit_scale`, 1 /
    temperature.
    """
    check_shapes(predicted, target)
    logits = logit_scale * unit_norm(predicted) @ unit_norm(target).T
    truth = torch.arange(len(predicted), device=predicted.device)
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def bank_loss(
    predicted: Tensor,
    target: Tensor,
    bank: Tensor,
    *,
    logit_scale: Tensor | float = 1 / 0.07,
    chunk_rows: int = 8_192,
) -> Tensor:
    """Compute InfoNCE against a bank of all targets, a value that does not depend on n.

    The targets are frozen, so every one of them can be a negative at every step, as in a memory
    bank that is never stale; see Wu et al. (2018), https://arxiv.org/abs/1805.01978.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm; each is one of the bank.
        bank: All distinct targets, shape (m, d), unit norm, of any floating dtype.
        logit_scale: Factor of the similarities, 1 / temperature.
        chunk_rows: Bank rows compared at a time, which bounds the memory.
    """
    check_shapes(predicted, target)
    if bank.dim() != 2 or bank.shape[1] != target.shape[1] or len(bank) == 0:
        raise UserError(
            f"Expected a bank of shape (m, {target.shape[1]}) with m > 0, got {tuple(bank.shape)}."
        )
    queries = logit_scale * unit_norm(predicted)
    parts = [
        # Recomputed in the backward pass: the logits of all parts at once would fill the memory.
        cast(Tensor, checkpoint(_log_sum_exp, queries, part, use_reentrant=False))
        for part in bank.split(chunk_rows)
    ]
    true = (queries * unit_norm(target)).sum(-1)
    return (torch.stack(parts).logsumexp(0) - true).mean()


def denoising_loss(
    prior: PriorTranslator,
    source: Tensor,
    target: Tensor,
    condition_dropout: float,
    generator: torch.Generator,
) -> Tensor:
    """Compute the denoising loss of a diffusion prior for prepared unit vectors and their targets.

    The mean squared error of the clean vector, not of the noise (DALL-E 2, Ramesh et al. 2022,
    https://arxiv.org/abs/2204.06125), at uniform timesteps, divided by a power of the noise
    variance: the spread of samples depends on the small errors at low noise. Conditions are dropped
    with a probability, for classifier-free guidance (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598). The generator is on the CPU.
    """
    count, device = len(target), target.device
    if prior.target_mean is not None:
        target = target - prior.target_mean
    timesteps = torch.randint(1000, (count,), generator=generator)
    noise = torch.randn(target.shape, dtype=torch.float32, generator=generator)
    cond_mask = torch.rand(count, dtype=torch.float32, generator=generator) >= condition_dropout
    timesteps, noise, cond_mask = (drawn.to(device) for drawn in (timesteps, noise, cond_mask))
    noisy = prior.add_noise(target, noise, timesteps)
    predicted = prior.predict(noisy, timesteps, source, cond_mask)
    errors = (predicted - target * target.shape[1] ** 0.5).square().mean(1, keepdim=True)  # (n, 1)
    return (errors / prior.noise_variance(timesteps) ** _WEIGHT_POWER).mean()


def distinct_targets(target: Tensor) -> Tensor:
    """Return the bank of `bank_loss`: the distinct rows, shape (m, d), unit norm, float16."""
    return torch.unique(unit_norm(target).half(), dim=0)


class TranslationLoss(nn.Module):
    """Training loss by name, or a weighted sum of losses, with learned temperatures if wanted.

    Args:
        name: `cosine`, `mse`, `contrastive` (NT-Xent), `infonce` or `bank`; or several with their
            weights, such as `cosine:1+contrastive:0.1`.
        temperature: Temperature of the latter three; by default 0.5, 0.07 and 0.07.
        learn_temperature: Learn it, as CLIP and open_clip do.

    Raises:
        UserError: If there is no such loss, or it has no temperature.

    Examples:
        >>> import torch
        >>> from clip2clap.training import TranslationLoss
        >>> vectors = torch.eye(3)
        >>> TranslationLoss("cosine:1+mse:0.5")(vectors, vectors).item()
        0.0
    """

    def __init__(
        self, name: str, *, temperature: float | None = None, learn_temperature: bool = False
    ):
        super().__init__()
        check_loss(name, temperature=temperature, learn_temperature=learn_temperature)
        self.terms = parse_loss(name)
        self.start = {
            term: temperature or DEFAULT_TEMPERATURES[term]
            for term in self.terms
            if term in DEFAULT_TEMPERATURES
        }
        learned = self.start if learn_temperature else {}
        self.log_scales = nn.ParameterDict(
            {
                term: torch.tensor(-math.log(start), dtype=torch.float32)
                for term, start in learned.items()
            }
        )

    def forward(self, predicted: Tensor, target: Tensor, bank: Tensor | None = None) -> Tensor:
        """Compute the loss; the `bank` loss needs the `distinct_targets` of all pairs."""
        values = [
            weight * self._term(term, predicted, target, bank)
            for term, weight in self.terms.items()
        ]
        return torch.stack(values).sum()

    @property
    def needs_bank(self) -> bool:
        """True if `forward` needs a bank."""
        return "bank" in self.terms

    @property
    def temperatures(self) -> dict[str, float]:
        """The temperature of every term that has one, as it now is."""
        return {
            term: math.exp(-self.log_scales[term].item()) if term in self.log_scales else start
            for term, start in self.start.items()
        }

    @torch.no_grad()
    def keep_scale_in_bounds(self) -> None:
        """Clamp learned scales to 1 to 100; to be called after each step."""
        for log_scale in self.log_scales.values():
            log_scale.clamp_(0.0, math.log(_MAX_LOGIT_SCALE))

    def _term(self, term: str, predicted: Tensor, target: Tensor, bank: Tensor | None) -> Tensor:
        if term in ("cosine", "mse"):
            return (cosine_loss if term == "cosine" else mse_loss)(predicted, target)
        learned = term in self.log_scales
        scale = self.log_scales[term].exp() if learned else 1 / self.start[cast(LossName, term)]
        if term == "contrastive":
            return contrastive_loss(predicted, target, temperature=1 / scale)
        if term == "infonce":
            return infonce_loss(predicted, target, logit_scale=scale)
        if bank is None:
            raise UserError("The bank loss needs the bank of all targets: give `bank`.")
        return bank_loss(predicted, target, bank, logit_scale=scale)


def _log_sum_exp(queries: Tensor, part: Tensor) -> Tensor:
    return (queries @ part.to(queries.dtype).T).logsumexp(-1)
