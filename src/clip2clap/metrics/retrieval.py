"""How well translated vectors find the vectors they stand for.

Similarities are computed tile by tile, so memory grows with the pairs and not with their square.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm

# Tiles of so many queries by so many answers stay in the processor's cache.
_TILE = 1024

# Cosine similarities of float32 unit vectors that differ by less are equal but for rounding.
_ROUNDING = 1e-6

RECALLS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """Where the true vectors stand among all, in both directions, and who stands near whom."""

    forward: Tensor
    """Rank of each prediction's true target among the distinct targets, shape (n,), int32."""

    backward: Tensor
    """Rank of each target's own prediction among those of other targets, shape (n,), int32."""

    csls: Tensor
    """As `forward`, by cross-domain similarity local scaling in place of the cosine."""

    occurrences: Tensor
    """How many predictions each distinct target is a nearest neighbour of, shape (m,), int64."""

    csls_occurrences: Tensor
    """As `occurrences`, by cross-domain similarity local scaling."""


def retrieval_ranks(predicted: Tensor, target: Tensor) -> Tensor:
    """Rank each true vector among all distinct ones by similarity to the prediction.

    Equal targets, such as one recording's vector beside each of its pictures, count once.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm but zero.

    Returns:
        Ranks, shape (n,), int32; 1 is the best. Ties count against the true vector: others that
        are exactly as similar, to rounding, stand before it.

    Raises:
        UserError: If the shapes differ, there are no pairs, or a value is not finite.
    """
    queries, (gallery, truth) = _check(predicted, target)
    return _search(queries, gallery, _own(gallery, truth)).ranks


def reverse_ranks(predicted: Tensor, target: Tensor) -> Tensor:
    """Rank each prediction by similarity to its true vector, among predictions of other vectors.

    Predictions that stand for an equal target are neither right nor wrong and left out ("filtered"
    ranks, Bordes et al. 2013), so that a translator that answers always the same comes last.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm but zero.

    Returns:
        Ranks, shape (n,), int32; 1 is the best, and ties count against the own prediction.

    Raises:
        UserError: As in `retrieval_ranks`.
    """
    queries, (gallery, truth) = _check(predicted, target)
    own = _own(gallery, truth)
    return _search(own, queries, queries, labels=_labels(gallery, truth)).ranks


def measure_retrieval(predicted: Tensor, target: Tensor, *, neighbours: int = 10) -> Retrieval:
    """Rank in both directions, and count how often each target is among the nearest.

    Cross-domain similarity local scaling (CSLS, Conneau et al. 2018, arXiv 1710.04087) takes from
    the cosine how near a target is to predictions in general, which hinders hubs.

    Args:
        predicted: Shape (n, d), of any norm.
        target: The true vectors, shape (n, d), of any norm but zero.
        neighbours: How many nearest neighbours count, for hubs and for CSLS.

    Returns:
        Ranks and k-occurrences.

    Raises:
        UserError: As in `retrieval_ranks`, or if `neighbours` is less than 1.
    """
    if neighbours < 1:
        raise UserError(f"Expected neighbours to be at least 1, got {neighbours}.")
    queries, (gallery, truth) = _check(predicted, target)
    own, labels = _own(gallery, truth), _labels(gallery, truth)
    back = _search(own, queries, queries, labels=labels, neighbours=neighbours)
    crowding = torch.empty(len(gallery), device=gallery.device)
    crowding[truth] = back.similarities.mean(1)
    there = _search(queries, gallery, own, neighbours=neighbours)
    scaled = _search(
        queries,
        gallery,
        own,
        neighbours=neighbours,
        crowding=crowding,
        own_crowding=crowding[truth],
    )
    return Retrieval(
        forward=there.ranks,
        backward=back.ranks,
        csls=scaled.ranks,
        occurrences=there.nearest.flatten().bincount(minlength=len(gallery)),
        csls_occurrences=scaled.nearest.flatten().bincount(minlength=len(gallery)),
    )


def distinct_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Find which rows are equal to the last bit.

    Args:
        vectors: Shape (n, d).

    Returns:
        The first row of each set of equals, ascending, shape (m,); and for each row the place of
        its set among these, shape (n,).
    """
    places: dict[bytes, int] = {}
    first, inverse = [], np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _TILE):
        # Adding zero makes -0 to 0.
        rows = np.ascontiguousarray((vectors[start : start + _TILE] + 0).cpu().numpy())
        for at, row in enumerate(rows, start):
            key = hashlib.blake2b(row.data, digest_size=16).digest()
            inverse[at] = places.setdefault(key, len(places))
            if inverse[at] == len(first):
                first.append(at)
    device = vectors.device
    return torch.tensor(first, device=device), torch.from_numpy(inverse).to(device)


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
    queries, (gallery, truth) = _check(predicted, target)
    own = _own(gallery, truth)
    ranks = _search(queries, gallery, own).ranks
    cosines = (queries * own).sum(-1)
    return {
        "mrr": mean_reciprocal_rank(ranks),
        **{f"recall_at_{k}": recall_at_k(ranks, k) for k in RECALLS},
        "median_rank": median_rank(ranks),
        "cosine": cosines.mean().item(),
        "gallery": len(gallery),
    }


@dataclass
class _Found:
    """What a search gives for each query."""

    ranks: Tensor
    similarities: Tensor
    """Scores of the nearest, shape (n, k)."""

    nearest: Tensor
    """Which these are, shape (n, k)."""


@torch.no_grad()
def _search(
    queries: Tensor,
    gallery: Tensor,
    own: Tensor,
    *,
    labels: Tensor | None = None,
    neighbours: int = 0,
    crowding: Tensor | None = None,
    own_crowding: Tensor | None = None,
) -> _Found:
    """Rank each query's own vector in a gallery that holds it, and find the nearest.

    Args:
        queries: Shape (n, d), unit norm.
        gallery: Shape (m, d), unit norm.
        own: The vector each query should find, shape (n, d), unit norm.
        labels: What queries and the gallery, row by row, stand for; others of the query's label
            are left out of its rank. None if each row of the gallery stands for itself.
        neighbours: How many of the nearest to give.
        crowding: Taken from twice the similarity to a row of the gallery, shape (m,).
        own_crowding: The same for the own vectors, shape (n,).
    """
    neighbours = min(neighbours, len(gallery))
    found = []
    scores = torch.empty(_TILE, _TILE, device=queries.device)
    for rows in _slices(len(queries)):
        block = queries[rows]
        threshold = (block * own[rows]).sum(1) - _ROUNDING
        if own_crowding is not None:
            threshold = 2 * threshold - own_crowding[rows]
        ranks = torch.zeros(len(block), dtype=torch.int32, device=block.device)
        best = torch.empty(len(block), 0, device=block.device)
        where = torch.empty(len(block), 0, dtype=torch.long, device=block.device)
        for columns in _slices(len(gallery)):
            tile = scores.view(-1)[: len(block) * (columns.stop - columns.start)]
            tile = tile.view(len(block), -1)
            torch.mm(block, gallery[columns].T, out=tile)
            if crowding is not None:
                tile.mul_(2).sub_(crowding[columns])
            better = tile >= threshold[:, None]
            if labels is not None:
                better &= labels[rows, None] != labels[None, columns]
            ranks += better.sum(1, dtype=torch.int32)
            if neighbours:
                near, at = tile.topk(min(neighbours, tile.shape[1]), dim=1)
                best = torch.cat([best, near], dim=1)
                where = torch.cat([where, at + columns.start], dim=1)
                best, at = best.topk(min(neighbours, best.shape[1]), dim=1)
                where = where.gather(1, at)
        # Without labels the own vector was counted too.
        found.append(_Found(ranks if labels is None else ranks + 1, best, where))
    return _Found(*(torch.cat([getattr(f, name) for f in found]) for name in vars(found[0])))


def _slices(n: int) -> Iterator[slice]:
    for start in range(0, n, _TILE):
        yield slice(start, min(start + _TILE, n))


def _own(gallery: Tensor, truth: Tensor) -> Tensor:
    return gallery if len(gallery) == len(truth) else gallery[truth]


def _labels(gallery: Tensor, truth: Tensor) -> Tensor | None:
    return None if len(gallery) == len(truth) else truth


def _check(predicted: Tensor, target: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Give unit-norm predictions, and the distinct targets with the place of each row's own."""
    if predicted.shape != target.shape or predicted.dim() != 2 or len(predicted) == 0:
        raise UserError(
            "Expected predictions and targets of one shape (n, d) with n > 0, got "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )
    for name, side in (("predictions", predicted), ("targets", target)):
        if not all(part.isfinite().all() for part in side.split(_TILE)):
            raise UserError(f"The {name} hold NaN or infinity, so they can't be ranked.")
    units = unit_norm(target)
    first, truth = distinct_rows(units)
    return unit_norm(predicted), (units if len(first) == len(units) else units[first], truth)


def _checked(ranks: Tensor) -> Tensor:
    if ranks.dim() != 1 or len(ranks) == 0:
        raise UserError(f"Expected ranks of shape (n,) with n > 0, got {tuple(ranks.shape)}.")
    return ranks
