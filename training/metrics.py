"""How well translated vectors find the vectors they stand for."""

import numpy as np
import torch
from torch import Tensor

from clip2clap.embeddings import UserError, unit_norm

# Similarities are computed for so many queries at a time, to bound memory.
_QUERIES = 1024

RECALLS = (1, 5, 10)


def retrieval_ranks(predicted: Tensor, target: Tensor) -> Tensor:
    """Rank each true vector among all distinct ones by similarity to the prediction.

    Equal targets, such as one recording's vector beside each of its pictures, count once.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm but zero.

    Returns:
        Ranks, shape (n,), float32; 1 is the best. Vectors exactly as similar as the true one share
        the places among them, so that a translator that answers always the same gains nothing.

    Raises:
        UserError: If the shapes differ, there are no pairs, or a value is not finite.
    """
    if predicted.shape != target.shape or predicted.dim() != 2 or len(predicted) == 0:
        raise UserError(
            "Expected predictions and targets of one shape (n, d) with n > 0, got "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )
    for name, side in (("predictions", predicted), ("targets", target)):
        if not side.isfinite().all():
            raise UserError(f"The {name} hold NaN or infinity, so they can't be ranked.")
    gallery, truth = _distinct(unit_norm(target))
    ranks = []
    for queries, true in zip(
        unit_norm(predicted).split(_QUERIES), truth.split(_QUERIES), strict=True
    ):
        similarities = queries @ gallery.T
        own = similarities.gather(1, true[:, None])
        better = (similarities > own).sum(1)
        equal = (similarities == own).sum(1) - 1
        ranks.append(1 + better + equal / 2)
    return torch.cat(ranks)


def recall_at_k(ranks: Tensor, k: int) -> float:
    """Give the share of true vectors that are among the k most similar.

    Args:
        ranks: What `retrieval_ranks` gives, shape (n,).
        k: How many answers count, at least 1.

    Returns:
        From 0 to 1.

    Raises:
        UserError: If k is less than 1, or there are no ranks.
    """
    if k < 1:
        raise UserError(f"Expected k to be at least 1, got {k}.")
    return (_checked(ranks) <= k).double().mean().item()


def median_rank(ranks: Tensor) -> float:
    """Give the middle rank, or the mean of the middle two.

    Raises:
        UserError: If there are no ranks.
    """
    return torch.quantile(_checked(ranks).double(), 0.5).item()


def mean_reciprocal_rank(ranks: Tensor) -> float:
    """Give the mean of 1 / rank, from 0 to 1.

    Raises:
        UserError: If there are no ranks.
    """
    return _checked(ranks).double().reciprocal().mean().item()


def retrieval_metrics(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """Sum up how well predictions find their targets.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm but zero.

    Returns:
        `mrr`, `recall_at_1`, `recall_at_5`, `recall_at_10`, `median_rank`, `cosine` (the mean
        cosine similarity of the pairs), and `gallery`, the number of distinct targets.

    Raises:
        UserError: As in `retrieval_ranks`.
    """
    ranks = retrieval_ranks(predicted, target)
    cosines = (unit_norm(predicted) * unit_norm(target)).sum(-1)
    return {
        "mrr": mean_reciprocal_rank(ranks),
        **{f"recall_at_{k}": recall_at_k(ranks, k) for k in RECALLS},
        "median_rank": median_rank(ranks),
        "cosine": cosines.mean().item(),
        "gallery": len(_distinct(unit_norm(target))[0]),
    }


def _distinct(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Give the distinct rows, and for each row where it stands among them."""
    rows = np.ascontiguousarray(vectors.cpu().numpy())
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    # np.unique sorts by bytes; which row of an equal set comes first is of no matter.
    return vectors[torch.from_numpy(first)], torch.from_numpy(inverse).to(vectors.device)


def _checked(ranks: Tensor) -> Tensor:
    if ranks.dim() != 1 or len(ranks) == 0:
        raise UserError(f"Expected ranks of shape (n,) with n > 0, got {tuple(ranks.shape)}.")
    return ranks
