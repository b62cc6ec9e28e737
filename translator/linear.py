"""The linear translator, fitted in closed form by ridge regression or as a rotation."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from clip2clap.embeddings import EmbeddingSpace, UserError, unit_norm
from clip2clap.translator.base import Translator

# Sums over rows run in float64, some rows at a time so that a large table isn't widened whole.
_ROWS = 65_536


class LinearTranslator(Translator):
    """One matrix, with or without a shift: L2-normalise, Linear, L2-normalise.

    `fit_ridge` and `fit_procrustes` make one from pairs.

    Args:
        source_dim: Length of the vectors that go in.
        target_dim: Length of the vectors that come out.
        bias: Whether there is a shift, as after a fit with `centre=True`.
        source_space: Where the vectors that go in live.
        target_space: Where the vectors that come out live.
        recipe: How it was fitted.
        metrics: How well it does on pairs it has not seen.
        clip2clap_version: The version that made it; the present one if None.

    Raises:
        UserError: If a size is no positive whole number, or a space has another size.
    """

    @register_to_config
    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        bias: bool = True,
        source_space: EmbeddingSpace | dict[str, Any] | None = None,
        target_space: EmbeddingSpace | dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        clip2clap_version: str | None = None,
    ):
        super().__init__()
        self._finish_config()
        self.linear = nn.Linear(source_dim, target_dim, bias=bias)

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        return self.linear(embeds)


def fit_ridge(
    source: Tensor, target: Tensor, *, alpha: float = 1.0, centre: bool = True
) -> LinearTranslator:
    """Fit the matrix that predicts the target best under a penalty on its size.

    Minimises ||X W - Y||² + alpha ||W||² over the unit vectors X and Y, less their means if
    `centre`; see Hoerl and Kennard (1970), https://doi.org/10.1080/00401706.1970.10488634.

    Args:
        source: Embeddings to map from, shape (n, d_source); only their direction counts.
        target: Embeddings of the same things to map to, shape (n, d_target).
        alpha: Weight of the penalty; 0 is ordinary least squares.
        centre: Take the means off first, and put the target's back: a fit with an intercept.

    Returns:
        The translator, in float32 on the CPU.

    Raises:
        UserError: If the shapes don't pair, a vector is zero or not finite, `alpha` is negative,
            or the vectors don't determine the matrix without a penalty.
    """
    return fit_ridge_path(source, target, alphas=[alpha], centre=centre)[0]


def fit_ridge_path(
    source: Tensor, target: Tensor, *, alphas: Sequence[float], centre: bool = True
) -> list[LinearTranslator]:
    """Fit `fit_ridge`'s matrix for several penalties, with one pass over the pairs.

    Args:
        source: Embeddings to map from, shape (n, d_source); only their direction counts.
        target: Embeddings of the same things to map to, shape (n, d_target).
        alphas: Weights of the penalty; 0 is ordinary least squares.
        centre: Take the means off first, and put the target's back: a fit with an intercept.

    Returns:
        A translator for each penalty, in float32 on the CPU.

    Raises:
        UserError: As in `fit_ridge`.
    """
    for alpha in alphas:
        if not 0 <= alpha < float("inf"):
            raise UserError(f"Expected alpha to be 0 or a positive number, got {alpha!r}.")
    sums = _Sums(source, target, centre=centre)
    return [_solve_ridge(sums, float(alpha)) for alpha in alphas]


def _solve_ridge(sums: "_Sums", alpha: float) -> LinearTranslator:
    penalty = alpha * torch.eye(len(sums.source_source), dtype=torch.float64)
    factor, info = torch.linalg.cholesky_ex(sums.source_source + penalty)
    # A matrix that is singular in exact arithmetic may still factor, with a tiny pivot.
    pivots = factor.diagonal()
    if info.item() != 0 or pivots.min() < 1e-7 * pivots.max():
        raise UserError(
            f"{sums.rows} pairs of {len(pivots)} values don't determine the matrix at "
            f"alpha={alpha:g}. Give a larger alpha, such as 1, or more pairs."
        )
    matrix = torch.cholesky_solve(sums.source_target, factor)
    return sums.translator(matrix, {"method": "ridge", "alpha": alpha})


def fit_procrustes(source: Tensor, target: Tensor, *, centre: bool = True) -> LinearTranslator:
    """Fit the rotation, or reflection, that carries source embeddings best onto the target.

    Minimises ||X R - Y||² over orthogonal R, with X and Y the unit vectors, less their means if
    `centre`; see Schönemann (1966), https://doi.org/10.1007/BF02289451. Where the sizes differ, the
    smaller space is filled up with zeros: from the larger space the result is a rotation of which
    the first `d_target` coordinates are kept, into the larger an embedding that keeps all angles.

    Args:
        source: Embeddings to map from, shape (n, d_source); only their direction counts.
        target: Embeddings of the same things to map to, shape (n, d_target).
        centre: Take the means off first, and put the target's back.

    Returns:
        The translator, in float32 on the CPU.

    Raises:
        UserError: If the shapes don't pair, or a vector is zero or not finite.
    """
    sums = _Sums(source, target, centre=centre)
    left, _, right = torch.linalg.svd(sums.source_target, full_matrices=False)
    return sums.translator(left @ right, {"method": "procrustes"})


class _Sums:
    """What the fits need of the pairs: sums over rows of products of their unit vectors."""

    def __init__(self, source: Tensor, target: Tensor, *, centre: bool):
        check_pairs(source, target)
        self.rows, self.centre = len(source), centre
        pairs = zip(source.split(_ROWS), target.split(_ROWS), strict=True)
        totals: list[Tensor] | None = None
        for chunk in pairs:
            x, y = (unit_norm(side.cpu()).double() for side in chunk)
            terms = [x.T @ x, x.T @ y, x.sum(0), y.sum(0)]
            totals = (
                terms if totals is None else [a + b for a, b in zip(totals, terms, strict=True)]
            )
        assert totals is not None
        self.source_source, self.source_target, x_sum, y_sum = totals
        self.source_mean, self.target_mean = x_sum / len(source), y_sum / len(target)
        if centre:
            self.source_source = self.source_source - torch.outer(x_sum, self.source_mean)
            self.source_target = self.source_target - torch.outer(x_sum, self.target_mean)

    def translator(self, matrix: Tensor, recipe: dict[str, Any]) -> LinearTranslator:
        """Put a matrix of shape (d_source, d_target), found for these sums, into a translator."""
        fitted = LinearTranslator(
            *matrix.shape, bias=self.centre, recipe={**recipe, "centre": self.centre}
        )
        with torch.no_grad():
            fitted.linear.weight.copy_(matrix.T)
            if self.centre:
                fitted.linear.bias.copy_(self.target_mean - self.source_mean @ matrix)
        return fitted.eval()


def check_pairs(source: Tensor, target: Tensor) -> None:
    """Refuse vectors that are not row by row pairs, or that have no direction.

    Args:
        source: Shape (n, d_source), floating point.
        target: Shape (n, d_target), floating point.

    Raises:
        UserError: If the shapes don't pair, or a vector is zero or not finite.
    """
    for name, side in (("source", source), ("target", target)):
        if not isinstance(side, Tensor) or side.dim() != 2 or not side.is_floating_point():
            got = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side)
            raise UserError(f"Expected {name} to be a floating tensor of shape (n, d), got {got}.")
    if len(source) != len(target) or len(source) == 0:
        raise UserError(
            f"Expected pairs, row by row, got {len(source)} source and {len(target)} target rows."
        )
    for name, side in (("source", source), ("target", target)):
        bad = [
            start + row
            for start, chunk in zip(range(0, len(side), _ROWS), side.split(_ROWS), strict=True)
            for row in _bad_rows(chunk)
        ]
        if bad:
            raise UserError(
                f"{len(bad)} of {len(side)} {name} rows are zero or not finite (the first is row "
                f"{bad[0]}). Leave them out, or embed what they came from again."
            )


def _bad_rows(vectors: Tensor) -> list[int]:
    norms = vectors.float().norm(dim=-1)
    return (~((norms > 0) & norms.isfinite())).nonzero().flatten().tolist()
