"""Running moments of arrays, without torch."""

from typing import Any

import numpy as np


class Moments:
    """Running count, mean and second moments of rows, in float64.

    Blocks are combined as in Chan et al. (1979), which is stable where means are far from 0.

    Args:
        dim: Size of the rows.
        covariance: Keep covariances of all pairs of dimensions rather than variances alone.

    Examples:
        >>> import numpy as np
        >>> moments = Moments(1)
        >>> for block in (np.array([[1.0]]), np.array([[2.0], [3.0]])):
        ...     moments.update(block)
        >>> moments.mean.item(), moments.variance.item()
        (2.0, 0.66...)
    """

    def __init__(self, dim: int, *, covariance: bool = False):
        self.count = 0
        """Number of rows."""
        self.mean = np.zeros(dim)
        """Mean, shape (dim,)."""
        self.scatter = np.zeros((dim, dim) if covariance else dim)
        """Sums of products (or squares) of centered rows, shape (dim, dim) or (dim,)."""

    def update(self, rows: Any) -> None:
        """Add rows, an array or CPU tensor of shape (n, dim), n > 0."""
        rows = np.asarray(rows, np.float64)
        mean = rows.mean(0)
        centered, step = rows - mean, mean - self.mean
        total = self.count + len(rows)
        weight = self.count * len(rows) / total
        if self.scatter.ndim == 2:
            self.scatter += centered.T @ centered + weight * np.outer(step, step)
        else:
            self.scatter += np.square(centered).sum(0) + weight * np.square(step)
        self.mean = self.mean + step * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> np.ndarray:
        """Variance of each dimension, shape (dim,)."""
        scatter = self.scatter.diagonal() if self.scatter.ndim == 2 else self.scatter
        return scatter / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Covariance, shape (dim, dim), if it is kept."""
        return self.scatter / self.count
