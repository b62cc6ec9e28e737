"""Unpaired linear alignment: a rotation between two spaces, found from the geometry of two clouds.

The method is mini-vec2vec (Dar 2025, https://arxiv.org/abs/2510.02348).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.translator.base import check_count
from clip2clap.translator.linear import LinearTranslator, check_vectors
from clip2clap.translator.saving import Provenance

# Rows that anchors and pseudo-pairs are made from, and that a refinement step maps.
_SAMPLE = 10_000
_STEP = 1_000

# Clusters of the last refinement, restarts of a matching, and share of a step's new rotation.
_FINE_CLUSTERS = 500
_RESTARTS = 30
_STEP_SIZE = 0.5

# Rows whose similarities to all others are in memory at once.
_ROWS = 2_048


def fit_unpaired(
    source: Tensor,
    target: Tensor,
    *,
    clusters: int = 20,
    runs: int = 30,
    neighbors: int = 50,
    iterations: int = 100,
    seed: int = 0,
) -> LinearTranslator:
    """Fit a rotation from one space into another without pairs (mini-vec2vec).

    Clusters of the two clouds are matched by the similarities among each cloud's centers, which a
    rotation leaves unchanged. Relative to the matched centers, rows of both clouds become
    comparable, and each source row gets the mean of its nearest target rows as its partner;
    Procrustes fits the rotation to these pairs, and two refinements repeat it with the nearest
    target rows of the mapped source and with finer clusters. Both clouds need to be drawn from
    alike items, such as captions of one data set, or images and audio of the same classes.

    Args:
        source: Source embeddings, shape (n, d_source), of any nonzero norm.
        target: Target embeddings of other items, shape (m, d_target), of any nonzero norm.
        clusters: Clusters that a run matches.
        runs: Runs, each with its own clusters; their matched centers are put together.
        neighbors: Target rows that a partner is the mean of.
        iterations: Steps of the first refinement.
        seed: Seed of the clusters and samples.

    Returns:
        The translator, in float32 on the CPU, with both means. Its recipe has the `consistency`:
        the mean cosine similarity of the mapped centers and the target's, 1 for equal clouds.

    Raises:
        UserError: If a tensor is no matrix of nonzero vectors, an option is no positive whole
            number, or there are fewer than twice as many rows as clusters or neighbors.

    Examples:
        >>> import torch
        >>> from clip2clap.translator import fit_unpaired
        >>> source, target = torch.randn(400, 8), torch.randn(300, 6)
        >>> fit_unpaired(source, target, clusters=5, runs=2, iterations=5)(source).shape
        torch.Size([400, 6])
    """
    options = {"clusters": clusters, "runs": runs, "neighbors": neighbors, "iterations": iterations}
    for name, value in options.items():
        check_count(name, value, most=2**20)
    _check_sides(source, target, clusters, neighbors)
    random = torch.Generator().manual_seed(seed)
    (x, source_mean, source_scale), (y, target_mean, target_scale) = map(_center, (source, target))
    matrix, consistency = _align(x, y, clusters, runs, neighbors, iterations, random)
    matrix = matrix * (target_scale / source_scale)
    recipe = {"method": "unpaired", **options, "seed": seed, "consistency": consistency}
    fitted = LinearTranslator(
        len(matrix), matrix.shape[1], provenance=Provenance(recipe=recipe)
    ).float()
    with torch.no_grad():
        fitted.linear.weight.copy_(matrix.T)
        fitted.linear.bias.copy_(target_mean - source_mean @ matrix)
    return fitted.eval()


def _check_sides(source: Tensor, target: Tensor, clusters: int, neighbors: int) -> None:
    least = 2 * max(clusters, neighbors)
    for name, side in (("source", source), ("target", target)):
        check_vectors(name, side)
        if len(side) < least:
            raise UserError(
                f"Expected at least {least} {name} rows for {clusters} clusters and {neighbors} "
                f"neighbors, got {len(side)}. Give more rows, or lower clusters and neighbors."
            )


def _align(
    x: Tensor,
    y: Tensor,
    clusters: int,
    runs: int,
    neighbors: int,
    iterations: int,
    random: torch.Generator,
) -> tuple[Tensor, float]:
    """Return the rotation of centered unit rows x onto the cloud y, and its consistency."""
    x_part, y_part = _sample(x, _SAMPLE, random), _sample(y, _SAMPLE, random)
    anchors = [_matched_centers(x_part, y_part, clusters, random) for _ in range(runs)]
    x_anchors, y_anchors = (unit_norm(torch.cat(side)) for side in zip(*anchors, strict=True))
    relative = unit_norm(x_part @ x_anchors.T), unit_norm(y_part @ y_anchors.T)
    matrix = _rotation(x_part, _nearest_means(*relative, y_part, neighbors))
    for _ in range(iterations):
        step = _sample(x, _STEP, random)
        partners = _nearest_means(unit_norm(step @ matrix), y, y, neighbors)
        matrix = torch.lerp(matrix, _rotation(step, partners), _STEP_SIZE)
    return _refine_by_clusters(matrix, x_part, y_part, random)


def _center(side: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return unit vectors less their mean, at unit norm again, with the mean and the mean norm."""
    units = unit_norm(side.detach().cpu().float())
    mean = units.mean(dim=0)
    centered = units - mean
    # A row at the mean has no direction; it stays zero.
    norms = centered.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return centered / norms, mean, norms.mean()


def _sample(rows: Tensor, count: int, random: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=random)[:count]]


def _seed(random: torch.Generator) -> int:
    return int(torch.randint(2**31, (), generator=random))


def _centers(rows: Tensor, clusters: int, seed: int, **options: Any) -> Tensor:
    """Return the centers of clusters of rows, shape (clusters, d)."""
    from sklearn.cluster import k_means

    options = {"n_init": 1, "random_state": seed, **options}
    return torch.from_numpy(k_means(rows.numpy(), clusters, **options)[0])


def _matched_centers(
    x: Tensor, y: Tensor, clusters: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return cluster centers of both clouds in the order that makes their similarities agree."""
    from scipy.optimize import quadratic_assignment

    sides = [_centers(side, clusters, _seed(random)) for side in (x, y)]
    similarities = []
    for centers in sides:
        products = centers @ centers.T
        products = products - products.mean(dim=0, keepdim=True)
        similarities.append((products - products.mean(dim=1, keepdim=True)).double().numpy())
    # A restart may end in a local optimum.
    options = {"maximize": True, "rng": np.random.default_rng(_seed(random))}
    best = max(
        (
            quadratic_assignment(*similarities, method="2opt", options=options)
            for _ in range(_RESTARTS)
        ),
        key=lambda result: result.fun,
    )
    return sides[0], sides[1][torch.from_numpy(best.col_ind)]


def _nearest_means(queries: Tensor, keys: Tensor, values: Tensor, neighbors: int) -> Tensor:
    """Return for each query the mean of the values whose keys are nearest, shape (n, d)."""
    means = []
    for part in queries.split(_ROWS):
        nearest = (part @ keys.T).topk(neighbors).indices  # (rows, neighbors)
        means.append(values[nearest].mean(dim=1))
    return torch.cat(means)


def _rotation(x: Tensor, y: Tensor) -> Tensor:
    """Return the orthogonal matrix that maps rows x best onto rows y, shape (d_x, d_y)."""
    left, _, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    return left @ right


def _refine_by_clusters(
    matrix: Tensor, x: Tensor, y: Tensor, random: torch.Generator
) -> tuple[Tensor, float]:
    """Fit the rotation to fine clusters, the target's started at the mapped ones of the source."""
    clusters = min(_FINE_CLUSTERS, len(x) // 10, len(y) // 10)
    centers = _centers(x, max(2, clusters), _seed(random))
    mapped = centers @ matrix
    theirs = _centers(y, len(centers), 0, init=mapped.numpy())
    consistency = torch.cosine_similarity(mapped, theirs).mean().item()
    return torch.lerp(matrix, _rotation(centers, theirs), _STEP_SIZE), consistency
