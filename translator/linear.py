"""The linear translator, fitted in closed form by ridge regression or as a rotation."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.translator.base import Translator

# Sums over rows run in float64, some rows at a time so that a large table isn't widened whole.
_ROWS = 8_192


class LinearTranslator(Translator):
    """One matrix, with or without a shift: L2-normalise, Linear, L2-normalise.

    `fit_ridge` and `fit_procrustes` make one from pairs, `LinearFitter` from a table of any size.

    Args:
        source_dim: Length of the vectors that go in.
        target_dim: Length of the vectors that come out.
        bias: Whether there is a shift, as after a fit with `centre=True`.
        source_space: Where the vectors that go in live.
        target_space: Where the vectors that come out live.
        recipe: How it was fitted.
        metrics: How well it does on pairs it has not seen.
        data: Fingerprint of the pairs it was made from.
        versions: Of the libraries that made it; the present ones if None.

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
        data: str | None = None,
        versions: dict[str, str] | None = None,
    ):
        super().__init__()
        self._finish_config()
        self.linear = nn.Linear(source_dim, target_dim, bias=bias)

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        return self.linear(embeds)


def fit_ridge(
    source: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    centre: bool = True,
    scale: bool = False,
    noise: float = 0.0,
) -> LinearTranslator:
    """Fit the matrix that predicts the target best under a penalty on its size.

    Minimises ||X W - Y||² + alpha ||W||² over the unit vectors X and Y, less their means if
    `centre`; see Hoerl and Kennard (1970), https://doi.org/10.1080/00401706.1970.10488634.

    Args:
        source: Embeddings to map from, shape (n, d_source); only their direction counts.
        target: Embeddings of the same things to map to, shape (n, d_target).
        alpha: Weight of the penalty; 0 is ordinary least squares.
        centre: Take the means off first, and put the target's back: a fit with an intercept.
        scale: Divide each source dimension by its deviation first, so that the penalty weighs on
            all alike; the translator takes vectors as they are all the same.
        noise: Standard deviation of noise on the source under which the fit is to hold; see
            `LinearFitter.ridge`.

    Returns:
        The translator, in float32 on the CPU.

    Raises:
        UserError: If the shapes don't pair, a vector is zero or not finite, `alpha` or `noise` is
            negative, or the vectors don't determine the matrix without a penalty.
    """
    fitter = LinearFitter().update(source, target)
    return fitter.ridge(alpha=alpha, centre=centre, scale=scale, noise=noise)


def fit_procrustes(
    source: Tensor, target: Tensor, *, centre: bool = True, scale: bool = False
) -> LinearTranslator:
    """Fit the rotation, or reflection, that carries source embeddings best onto the target.

    Minimises ||X R - Y||² over orthogonal R, with X and Y the unit vectors, less their means if
    `centre`; see Schönemann (1966), https://doi.org/10.1007/BF02289451. Where the sizes differ, the
    smaller space is filled up with zeros: from the larger space the result is a rotation of which
    the first `d_target` coordinates are kept, into the larger an embedding that keeps all angles.

    Args:
        source: Embeddings to map from, shape (n, d_source); only their direction counts.
        target: Embeddings of the same things to map to, shape (n, d_target).
        centre: Take the means off first, and put the target's back.
        scale: Rotate between spaces whose dimensions all have deviation 1, and give the target's
            dimensions theirs back.

    Returns:
        The translator, in float32 on the CPU.

    Raises:
        UserError: If the shapes don't pair, or a vector is zero or not finite.
    """
    return LinearFitter().update(source, target).procrustes(centre=centre, scale=scale)


class LinearFitter:
    """Fits linear translators to pairs that come piece by piece, such as a mapped table's.

    It keeps sums in float64, whose size doesn't depend on the number of pairs; the fits are those
    of all pairs at once.

    Example:
        >>> fitter = LinearFitter()
        >>> for source, target in table.chunks("clip_text", "clap_text"):
        ...     fitter.update(source, target)
        >>> translator = fitter.ridge(alpha=1.0)
    """

    def __init__(self) -> None:
        self.rows = 0
        """Pairs seen so far."""
        self._moments = _Moments.zeros(0, 0)

    def update(self, source: Tensor, target: Tensor) -> Self:
        """Take in pairs.

        Args:
            source: Embeddings to map from, shape (n, d_source); only their direction counts.
            target: Embeddings of the same things to map to, shape (n, d_target).

        Returns:
            The fitter itself.

        Raises:
            UserError: If the shapes don't pair or are others than before, or a vector is zero or
                not finite.
        """
        check_pairs(source, target, rows_before=self.rows)
        sizes = (source.shape[1], target.shape[1])
        if self.rows == 0:
            self._moments = _Moments.zeros(*sizes)
        elif (before := tuple(self._moments.source_target.shape)) != sizes:
            raise UserError(
                f"Expected pairs of {before[0]} and {before[1]} values, as the {self.rows} before, "
                f"got {sizes[0]} and {sizes[1]}."
            )
        for chunk in zip(source.split(_ROWS), target.split(_ROWS), strict=True):
            x, y = (unit_norm(side.cpu()).double() for side in chunk)
            self._moments.source_source.addmm_(x.T, x)
            self._moments.source_target.addmm_(x.T, y)
            self._moments.source += x.sum(0)
            self._moments.target += y.sum(0)
            self._moments.target_squares += y.square().sum(0)
        self.rows += len(source)
        return self

    def ridge(
        self,
        *,
        alpha: float = 1.0,
        centre: bool = True,
        scale: bool = False,
        noise: float = 0.0,
        rank: int | None = None,
    ) -> LinearTranslator:
        """Fit the matrix that predicts the target best under a penalty; as `fit_ridge`.

        Args:
            alpha: Weight of the penalty.
            centre: Take the means off first, and put the target's back.
            scale: Divide each source dimension by its deviation first.
            noise: Standard deviation of Gaussian noise on each value of the source's unit vectors,
                under which the fit is to hold: a penalty of rows * noise² on the matrix, which is
                what the noise amounts to on average; see Bishop (1995),
                https://doi.org/10.1162/neco.1995.7.1.108.
            rank: Of the matrix at most, by reduced-rank regression; see Mukherjee and Zhu (2011),
                https://doi.org/10.1002/sam.10138. None leaves it free.

        Raises:
            UserError: If there were no pairs, an argument is out of range, or the pairs don't
                determine the matrix without a penalty.
        """
        for name, value in (("alpha", alpha), ("noise", noise)):
            if not 0 <= value < float("inf"):
                raise UserError(f"Expected {name} to be 0 or a positive number, got {value!r}.")
        if rank is not None and rank < 1:
            raise UserError(f"Expected rank to be a positive whole number, got {rank!r}.")
        problem = self._problem(centre=centre, scale=scale)
        penalised = problem.source_source + torch.diag(
            alpha + self.rows * noise**2 / problem.source_scale**2
        )
        factor, info = torch.linalg.cholesky_ex(penalised)
        # A matrix that is singular in exact arithmetic may still factor, with a tiny pivot.
        pivots = factor.diagonal()
        if info.item() != 0 or pivots.min() < 1e-7 * pivots.max():
            raise UserError(
                f"{self.rows} pairs of {len(pivots)} values don't determine the matrix at "
                f"alpha={alpha:g}. Give a larger alpha, such as 1, or more pairs."
            )
        # The target's dimensions are fitted one by one, so that their scale changes nothing.
        matrix = torch.cholesky_solve(problem.source_target * problem.target_scale, factor)
        recipe: dict[str, Any] = {"method": "ridge", "alpha": float(alpha), "noise": float(noise)}
        if rank is not None:
            # The directions of the target in which the predictions vary most.
            _, directions = torch.linalg.eigh(matrix.T @ penalised @ matrix)
            kept = directions[:, -rank:]
            matrix = matrix @ kept @ kept.T
            recipe["rank"] = rank
        return problem.translator(matrix / problem.source_scale[:, None], recipe)

    def procrustes(self, *, centre: bool = True, scale: bool = False) -> LinearTranslator:
        """Fit the rotation that carries the source best onto the target; as `fit_procrustes`.

        Raises:
            UserError: If there were no pairs.
        """
        problem = self._problem(centre=centre, scale=scale)
        left, _, right = torch.linalg.svd(problem.source_target, full_matrices=False)
        matrix = left @ right / problem.source_scale[:, None] * problem.target_scale
        return problem.translator(matrix, {"method": "procrustes"})

    def _problem(self, *, centre: bool, scale: bool) -> "_Problem":
        """Centre and scale the sums as is wanted."""
        if self.rows == 0:
            raise UserError("There are no pairs to fit to: give some to `update` first.")
        sums = self._moments
        x_mean, y_mean = sums.source / self.rows, sums.target / self.rows
        if not centre:
            x_mean, y_mean = torch.zeros_like(x_mean), torch.zeros_like(y_mean)
        source_source = sums.source_source - self.rows * torch.outer(x_mean, x_mean)
        source_target = sums.source_target - self.rows * torch.outer(x_mean, y_mean)
        x_scale, y_scale = torch.ones_like(x_mean), torch.ones_like(y_mean)
        if scale:
            x_squares = sums.source_source.diagonal()
            x_scale = _deviation(x_squares / self.rows, x_mean)
            y_scale = _deviation(sums.target_squares / self.rows, y_mean)
        return _Problem(
            source_source=source_source / torch.outer(x_scale, x_scale),
            source_target=source_target / torch.outer(x_scale, y_scale),
            source_mean=x_mean,
            target_mean=y_mean,
            source_scale=x_scale,
            target_scale=y_scale,
            centre=centre,
            scale=scale,
        )


@dataclass
class _Moments:
    """Sums over pairs of unit vectors, in float64."""

    source_source: Tensor
    source_target: Tensor
    source: Tensor
    target: Tensor
    target_squares: Tensor

    @classmethod
    def zeros(cls, d_source: int, d_target: int) -> Self:
        shapes = [(d_source, d_source), (d_source, d_target), d_source, d_target, d_target]
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


@dataclass(frozen=True)
class _Problem:
    """What is to be solved: products of the pairs, centred and scaled, and the way back."""

    source_source: Tensor
    source_target: Tensor
    source_mean: Tensor
    target_mean: Tensor
    source_scale: Tensor
    target_scale: Tensor
    centre: bool
    scale: bool

    def translator(self, matrix: Tensor, recipe: dict[str, Any]) -> LinearTranslator:
        """Put a matrix of shape (d_source, d_target), for unscaled vectors, into a translator."""
        fitted = LinearTranslator(
            *matrix.shape,
            bias=self.centre,
            recipe={**recipe, "centre": self.centre, "scale": self.scale},
        )
        with torch.no_grad():
            fitted.linear.weight.copy_(matrix.T)
            if self.centre:
                fitted.linear.bias.copy_(self.target_mean - self.source_mean @ matrix)
        return fitted.eval()


def _deviation(mean_squares: Tensor, mean: Tensor) -> Tensor:
    """Give each dimension's deviation from the mean; 1 where it doesn't vary."""
    variance = mean_squares - mean.square()
    # What is left of a constant's variance is rounding.
    return torch.where(variance > 1e-12 * mean_squares, variance, 1.0).sqrt()


def check_pairs(source: Tensor, target: Tensor, *, rows_before: int = 0) -> None:
    """Refuse vectors that are not row by row pairs, or that have no direction.

    Args:
        source: Shape (n, d_source), floating point.
        target: Shape (n, d_target), floating point.
        rows_before: How many pairs came before these, for the message.

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
                f"{rows_before + bad[0]}). Leave them out, or embed what they came from again."
            )


def _bad_rows(vectors: Tensor) -> list[int]:
    norms = vectors.float().norm(dim=-1)
    return (~((norms > 0) & norms.isfinite())).nonzero().flatten().tolist()
