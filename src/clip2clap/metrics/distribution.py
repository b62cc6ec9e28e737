"""Distances between distributions of embeddings."""

import numpy as np

from clip2clap.core.errors import UserError

# Enough pairs for a stable median.
_MOST_FOR_MEDIAN = 2000


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Compute the squared Fréchet distance between Gaussians fitted to two sets of embeddings.

    Dowson and Landau 1982; for audio Kilgour et al. 2019, arXiv 1812.08466. The trace of the
    root of the covariances' product is the nuclear norm of the product of their factors, which
    stays exact where there are fewer vectors than dimensions and covariances are singular.

    Args:
        one: Embeddings, shape (n, d), n > 1.
        other: Embeddings, shape (m, d), m > 1.

    Returns:
        Distance, 0 or more. It grows as sets get smaller: compare sets of one size.

    Raises:
        UserError: If the shapes do not match, or a value is not finite.
    """
    from scipy.linalg import svdvals

    one, other = _check(one, other)
    # The triangular factor has the same covariance as the centered rows and is no larger.
    factors = [
        np.asarray(np.linalg.qr((side - side.mean(0)) / np.sqrt(len(side) - 1), mode="r"))
        for side in (one, other)
    ]
    traces = sum((factor**2).sum() for factor in factors)
    shared = np.sum(svdvals(factors[0] @ factors[1].T))
    return max(float(((one.mean(0) - other.mean(0)) ** 2).sum() + traces - 2 * shared), 0.0)


def kernel_distance(one: np.ndarray, reference: np.ndarray) -> float:
    """Compute the unbiased squared maximum mean discrepancy between two sets of embeddings.

    Gretton et al. 2012; with a Gaussian kernel as wide as the median distance in the reference it
    is the kernel audio distance (Chung et al. 2025, arXiv 2502.15602). Its expectation does not
    depend on the sets' sizes, unlike the Fréchet distance's.

    Args:
        one: Embeddings, shape (n, d), n > 1.
        reference: Reference embeddings, shape (m, d), m > 1.

    Returns:
        Distance: about 0, and possibly negative, for two sets of one distribution.

    Raises:
        UserError: If the shapes do not match, or a value is not finite.
    """
    from scipy.spatial.distance import pdist
    from sklearn.metrics.pairwise import rbf_kernel

    one, reference = _check(one, reference)
    step = -(-len(reference) // _MOST_FOR_MEDIAN)
    width = float(np.median(pdist(reference[::step])))
    # If the reference is a single point, any width works.
    gamma = 1 / (2 * width**2) if width > 0 else 1.0
    distance = -2 * rbf_kernel(one, reference, gamma=gamma).mean()
    for side in (one, reference):
        # The diagonal of the kernel is 1: it is left out.
        n = len(side)
        distance += (rbf_kernel(side, gamma=gamma).sum() - n) / (n * (n - 1))
    return float(distance)


def _check(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if any(side.ndim != 2 or len(side) < 2 for side in sides) or (
        sides[0].shape[1] != sides[1].shape[1]
    ):
        raise UserError(
            "Expected two sets of at least two embeddings of one size, got shapes "
            f"{sides[0].shape} and {sides[1].shape}."
        )
    if not all(np.isfinite(side).all() for side in sides):
        raise UserError("Expected finite embeddings, got NaN or infinity.")
    return sides
