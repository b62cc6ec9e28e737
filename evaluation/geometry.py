"""Geometry of embeddings: hubness, modality gap, principal planes."""

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.metrics.bootstrap import Estimate, Resamples


def hubness(occurrences: np.ndarray, draws: Resamples) -> Estimate:
    """Compute the skewness of the k-occurrence with its interval.

    See Radovanović et al. (2010), https://www.jmlr.org/papers/v11/radovanovic10a.html.

    Args:
        occurrences: How many predictions each target is a nearest neighbor of, shape (m,).
        draws: Bootstrap draws of the targets.

    Returns:
        0 if all targets are found equally often.
    """
    from scipy import stats

    x = occurrences.astype(np.float64)

    def skewness(means: np.ndarray) -> np.ndarray:
        first, second, third = means.T
        variance = np.maximum(second - first**2, 0)
        # Where every target is found equally often, none is a hub.
        return np.where(
            variance > 1e-9,
            (third - 3 * first * second + 2 * first**3) / np.maximum(variance, 1e-9) ** 1.5,
            0.0,
        )

    value = stats.skew(x) if np.ptp(x) else 0.0
    return Estimate.of(float(value), skewness(draws.means(np.stack([x, x**2, x**3], axis=1))))


def modality_gap(one: Tensor, other: Tensor, draws: Resamples) -> tuple[Estimate, Estimate]:
    """Compute the distance between two means, and their angle in degrees.

    See Liang et al. (2022), arXiv 2203.02053. Chance adds length across the many dimensions, so
    intervals are those of the gap in its own direction, and of the angle within the plane of the
    two means.

    Args:
        one: Embeddings, shape (n, d), unit norm.
        other: Embeddings, shape (n, d), unit norm.
        draws: Bootstrap draws of the rows.
    """
    means = torch.stack([one.double().mean(0), other.double().mean(0)])  # (2, d)
    gap = means[0] - means[1]
    along = ((one - other) @ unit_norm(gap)).numpy()  # (n,)
    plane = torch.linalg.qr(means.T).Q.float()  # (d, 2)
    values = torch.cat([one @ plane, other @ plane], dim=1).numpy()  # (n, 4)
    angle = _angle(values.mean(0, keepdims=True))[0]
    turns = _angle(draws.means(values)) * (1 if angle >= 0 else -1)
    return (
        Estimate.of(gap.norm().item(), draws.means(along)),
        Estimate.of(abs(angle), turns),
    )


def principal_plane(embeds: Tensor) -> np.ndarray:
    """Project embeddings (n, d) on their two principal axes, shape (n, 2)."""
    from sklearn.decomposition import PCA

    if min(embeds.shape) < 2:
        return np.zeros((len(embeds), 2))
    return PCA(2, svd_solver="covariance_eigh").fit_transform(embeds.numpy())


def _angle(coordinates: np.ndarray) -> np.ndarray:
    """Return the turn in degrees between two vectors of a plane, (draws, 4) to (draws,)."""
    one, other = (np.arctan2(coordinates[:, at + 1], coordinates[:, at]) for at in (0, 2))
    return (np.degrees(one - other) + 180) % 360 - 180
