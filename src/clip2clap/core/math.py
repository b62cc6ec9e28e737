"""Vector arithmetic of every package."""

import torch
from torch import Tensor
from torch.nn import functional as F


def unit_norm(embeds: Tensor) -> Tensor:
    """Return embeddings scaled to L2 norm 1, in float32; zero vectors stay zero.

    Args:
        embeds: Embeddings, shape (..., d).

    Examples:
        >>> import torch
        >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    return F.normalize(embeds.float(), dim=-1)


class Moments:
    """Running count, mean and second moments of rows, in float64 on the CPU.

    Blocks are combined as in Chan et al. (1979), which is stable where means are far from 0.

    Args:
        dim: Size of the rows.
        covariance: Keep covariances of all pairs of dimensions rather than variances alone.

    Examples:
        >>> import torch
        >>> moments = Moments(1)
        >>> for block in (torch.tensor([[1.0]]), torch.tensor([[2.0], [3.0]])):
        ...     moments.update(block)
        >>> moments.mean.item(), moments.variance.item()
        (2.0, 0.66...)
    """

    def __init__(self, dim: int, *, covariance: bool = False):
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64)
        # Sums of products (or squares) of centered rows.
        self.scatter = torch.zeros((dim, dim) if covariance else dim, dtype=torch.float64)

    def update(self, rows: Tensor) -> None:
        """Add rows, shape (n, dim), n > 0."""
        rows = rows.cpu().double()
        mean = rows.mean(0)
        centered, step = rows - mean, mean - self.mean
        total = self.count + len(rows)
        weight = self.count * len(rows) / total
        if self.scatter.ndim == 2:
            self.scatter.addmm_(centered.T, centered).add_(torch.outer(step, step), alpha=weight)
        else:
            self.scatter += centered.square().sum(0) + step.square() * weight
        self.mean += step * (len(rows) / total)
        self.count = total

    @property
    def variance(self) -> Tensor:
        """Variance of each dimension, shape (dim,)."""
        scatter = self.scatter.diagonal() if self.scatter.ndim == 2 else self.scatter
        return scatter / self.count

    @property
    def covariance(self) -> Tensor:
        """Covariance, shape (dim, dim), if it is kept."""
        return self.scatter / self.count
