"""Cross-modal retrieval metrics.

Similarities are computed tile by tile: memory is linear in the number of pairs.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm

TILE = 1024
"""Queries and targets of a tile, which fits the CPU's cache."""

# Rounding error of cosine similarities in float32.
_ROUNDING = 1e-6
# That of the similarity of equal vectors in half precision.
_EQUAL = 1e-3

RECALLS = (1, 5, 10)


class Retrieval(NamedTuple):
    """Ranks of n true pairs in both directions, and k-occurrences of the m distinct targets.

    Ranks are int32; 1 is the best. Equal targets, such as one audio embedding paired with several
    images, count once. Ties, up to rounding, count against the true one.
    """

    forward: Tensor
    """Rank of each prediction's true target among the distinct targets, shape (n,)."""

    backward: Tensor
    """Rank of each target's own prediction among those of other targets, shape (n,).

    Predictions of an equal target are left out ("filtered" ranks, Bordes et al. 2013), so that a
    translator with a constant output ranks last.
    """

    csls: Tensor
    """As `forward`, by CSLS in place of the cosine similarity."""

    occurrences: Tensor
    """Predictions that have each distinct target among their nearest, shape (m,), int64."""

    csls_occurrences: Tensor
    """As `occurrences`, by CSLS."""


def measure_retrieval(predicted: Tensor, target: Tensor, *, neighbors: int = 10) -> Retrieval:
    """Rank in both directions, and count k-occurrences, which show hubs.

    Cross-domain similarity local scaling (CSLS, Conneau et al. 2018, arXiv 1710.04087) subtracts
    from the cosine similarity a target's mean similarity to its nearest predictions.

    Args:
        predicted: Predicted embeddings, shape (n, d), of any norm.
        target: True embeddings, shape (n, d), of any norm but zero.
        neighbors: Number of nearest neighbors, for k-occurrences and CSLS.

    Returns:
        Ranks and k-occurrences.

    Raises:
        UserError: If the shapes differ, there are no pairs, a value is not finite, or `neighbors`
            is less than 1.
    """
    if neighbors < 1:
        raise UserError(f"Expected neighbors to be at least 1, got {neighbors}.")
    queries, gallery, truth, own = _check(predicted, target)
    labels = None if own is gallery else truth
    back = _search(own, queries, queries, labels=labels, neighbors=neighbors)
    crowding = torch.empty(len(gallery), device=gallery.device)
    crowding[truth] = back.similarities.mean(1)
    there = _search(queries, gallery, own, neighbors=neighbors)
    scaled = _search(
        queries,
        gallery,
        own,
        neighbors=neighbors,
        crowding=crowding,
        own_crowding=crowding[truth],
    )
    occurrences, csls_occurrences = (
        found.nearest.flatten().bincount(minlength=len(gallery)) for found in (there, scaled)
    )
    return Retrieval(there.ranks, back.ranks, scaled.ranks, occurrences, csls_occurrences)


def distinct_rows(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Find bitwise equal rows.

    Args:
        vectors: Shape (n, d).

    Returns:
        Index of the first row of each distinct value, ascending, shape (m,); and for each row the
        position of its value among these, shape (n,).
    """
    places: dict[bytes, int] = {}
    first, inverse = [], np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), TILE):
        # Adding zero makes -0 to 0.
        rows = np.ascontiguousarray((vectors[start : start + TILE] + 0).cpu().numpy())
        for at, row in enumerate(rows, start):
            key = hashlib.blake2b(row.data, digest_size=16).digest()
            inverse[at] = places.setdefault(key, len(places))
            if inverse[at] == len(first):
                first.append(at)
    device = vectors.device
    return torch.tensor(first, device=device), torch.from_numpy(inverse).to(device)


def crowding(gallery: Tensor, queries: Tensor, *, neighbors: int = 10) -> Tensor:
    """Compute the mean cosine similarity of each target to its nearest queries, as CSLS needs it.

    Args:
        gallery: Targets, shape (m, d), unit norm.
        queries: Queries, shape (n, d), unit norm; those that equal a target are left out of its
            mean.
        neighbors: Number of nearest queries.

    Returns:
        Mean similarities, shape (m,); 0 without queries.
    """
    found = [gallery.new_zeros(0)]
    for tile in gallery.split(TILE):
        scores = tile @ queries.T  # (tile, n)
        scores = scores.masked_fill(scores > 1 - _EQUAL, -torch.inf)
        near = scores.topk(min(neighbors, len(queries)), dim=1).values
        counted = near.isfinite()
        found.append(near.where(counted, 0).sum(1) / counted.sum(1).clamp(min=1))
    return torch.cat(found)


def retrieval_metrics(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """Compute the retrieval metrics of predictions.

    Args:
        predicted: Predicted embeddings, shape (n, d), of any norm.
        target: True embeddings, shape (n, d), of any norm but zero.

    Returns:
        `mrr`, `recall_at_1`, `recall_at_5`, `recall_at_10`, `median_rank`, `cosine` (the mean
        cosine similarity of the pairs), and `gallery`, the number of distinct targets.

    Raises:
        UserError: If the shapes differ, there are no pairs, or a value is not finite.
    """
    queries, gallery, _, own = _check(predicted, target)
    ranks = _search(queries, gallery, own).ranks.double()
    return {
        "mrr": ranks.reciprocal().mean().item(),
        **{f"recall_at_{k}": (ranks <= k).double().mean().item() for k in RECALLS},
        "median_rank": torch.quantile(ranks, 0.5).item(),
        "cosine": (queries * own).sum(-1).mean().item(),
        "gallery": len(gallery),
    }


class _Found(NamedTuple):
    """Rank of each query's own target, and scores and indices of the nearest, shape (n, k)."""

    ranks: Tensor
    similarities: Tensor
    nearest: Tensor


@torch.no_grad()
def _search(
    queries: Tensor,
    gallery: Tensor,
    own: Tensor,
    *,
    labels: Tensor | None = None,
    neighbors: int = 0,
    crowding: Tensor | None = None,
    own_crowding: Tensor | None = None,
) -> _Found:
    """Rank each query's own target in a gallery, and find the nearest targets.

    Args:
        queries: Shape (n, d), unit norm.
        gallery: Shape (m, d), unit norm.
        own: True target of each query, shape (n, d), unit norm.
        labels: Labels of queries and gallery, row by row; others of the query's label are left out
            of its rank. None if all rows of the gallery differ.
        neighbors: Number of nearest targets to return.
        crowding: Mean similarity subtracted from twice the similarity, shape (m,).
        own_crowding: The same for the own targets, shape (n,).
    """
    neighbors = min(neighbors, len(gallery))
    found = []
    scores = queries.new_empty(TILE, TILE)
    for rows in _tiles(len(queries)):
        block = queries[rows]
        threshold = (block * own[rows]).sum(1) - _ROUNDING
        if own_crowding is not None:
            threshold = 2 * threshold - own_crowding[rows]
        ranks = torch.zeros(len(block), dtype=torch.int32, device=block.device)
        best = block.new_empty(len(block), 0)
        where = torch.empty(len(block), 0, dtype=torch.long, device=block.device)
        for columns in _tiles(len(gallery)):
            tile = scores.view(-1)[: len(block) * (columns.stop - columns.start)]
            tile = tile.view(len(block), -1)
            torch.mm(block, gallery[columns].T, out=tile)
            if crowding is not None:
                tile.mul_(2).sub_(crowding[columns])
            better = tile >= threshold[:, None]
            if labels is not None:
                better &= labels[rows, None] != labels[None, columns]
            ranks += better.sum(1, dtype=torch.int32)
            if neighbors:
                near, at = tile.topk(min(neighbors, tile.shape[1]), dim=1)
                best = torch.cat([best, near], dim=1)
                where = torch.cat([where, at + columns.start], dim=1)
                best, at = best.topk(min(neighbors, best.shape[1]), dim=1)
                where = where.gather(1, at)
        # Without labels the own target was counted too.
        found.append(_Found(ranks if labels is None else ranks + 1, best, where))
    return _Found(*map(torch.cat, zip(*found, strict=True)))


def _tiles(n: int) -> list[slice]:
    return [slice(start, min(start + TILE, n)) for start in range(0, n, TILE)]


def check_shapes(predicted: Tensor, target: Tensor) -> None:
    """Raise `UserError` unless predictions and targets have one shape (n, d) with n > 0."""
    if predicted.shape != target.shape or predicted.dim() != 2 or len(predicted) == 0:
        raise UserError(
            "Expected predictions and targets of one shape (n, d) with n > 0, got "
            f"{tuple(predicted.shape)} and {tuple(target.shape)}."
        )


def _check(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return predictions and distinct targets, unit norm; and the index and row of each's own."""
    check_shapes(predicted, target)
    for name, side in (("predictions", predicted), ("targets", target)):
        if not all(part.isfinite().all() for part in side.split(TILE)):
            raise UserError(f"The {name} hold NaN or infinity, so they cannot be ranked.")
    own = unit_norm(target)
    first, truth = distinct_rows(own)
    return unit_norm(predicted), own if len(first) == len(own) else own[first], truth, own
