"""Linear translator, fitted in closed form by ridge regression or orthogonal Procrustes."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.core.moments import Moments
from clip2clap.translator.base import Translator
from clip2clap.translator.saving import Provenance

# Rows per float64 sum: a large table is not converted at once.
_ROWS = 8_192


class LinearTranslator(Translator):
    """Linear map between unit spheres: L2-normalize, Linear, L2-normalize.

    `fit_ridge` and `fit_procrustes` fit one to pairs, `LinearFitter` to a table of any size.

    Args:
        source_dim: Length of the input vectors.
        target_dim: Length of the output vectors.
        bias: Add a bias, as after a fit with `center=True`.
        provenance: Facts about the translator.

    Raises:
        UserError: If a size is not a positive whole number, or a space has another size.

    Examples:
        >>> import torch
        >>> from clip2clap import LinearTranslator
        >>> LinearTranslator(512, 256)(torch.randn(3, 512)).shape
        torch.Size([3, 256])
    """

    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        bias: bool = True,
        provenance: Provenance | None = None,
    ):
        super().__init__(locals())
        self.linear = nn.Linear(source_dim, target_dim, bias=bias)

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        return self.linear(embeds)


def fit_ridge(
    source: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    center: bool = True,
    scale: bool = False,
    noise: float = 0.0,
) -> LinearTranslator:
    """Fit a linear map by ridge regression.

    Minimizes ||X W - Y||² + alpha ||W||² over the unit vectors X and Y, less their means if
    `center`; see Hoerl and Kennard (1970), https://doi.org/10.1080/00401706.1970.10488634.

    Args:
        source: Source embeddings, shape (n, d_source), of any nonzero norm.
        target: Target embeddings of the same items, shape (n, d_target), of any nonzero norm.
        alpha: Weight of the penalty; 0 is ordinary least squares.
        center: Subtract the means first, and add the target's back: a fit with an intercept.
        scale: Divide each source dimension by its standard deviation first, so that the penalty
            applies equally to all; the translator's input is still unscaled.
        noise: Standard deviation of noise on the source; see `LinearFitter.ridge`.

    Returns:
        The translator, in float32 on the CPU.

    Raises:
        UserError: If the shapes don't pair, a vector is zero or not finite, `alpha` or `noise` is
            negative, or the vectors don't determine the matrix without a penalty.

    Examples:
        >>> import torch
        >>> from clip2clap.translator import fit_ridge
        >>> source, rotation = torch.randn(200, 8), torch.linalg.qr(torch.randn(8, 8)).Q
        >>> translator = fit_ridge(source, source @ rotation, alpha=1e-3)
        >>> bool((translator(source) * (source @ rotation)).sum(-1).gt(0).all())
        True
    """
    fitter = LinearFitter().update(source, target)
    return fitter.ridge(alpha=alpha, center=center, scale=scale, noise=noise)


def fit_procrustes(
    source: Tensor,
    target: Tensor,
    *,
    center: bool = True,
    scale: bool = False,
    rank: int | None = None,
) -> LinearTranslator:
    """Fit the rotation (or reflection) that maps source embeddings best onto the target.

    Minimizes ||X R - Y||² over orthogonal R, with X and Y the unit vectors, less their means if
    `center`; see Schönemann (1966), https://doi.org/10.1007/BF02289451. Where the dimensions
    differ, the smaller space is padded with zeros: from the larger space R is a rotation followed
    by a projection onto the first `d_target` coordinates, into the larger an isometric embedding.

    `source`, `target` and the result are as in `fit_ridge`; with `scale` all dimensions are scaled
    to standard deviation 1 first, and the target's back. `rank` is as in
    `LinearFitter.procrustes`.

    Raises:
        UserError: If the shapes don't pair, a vector is zero or not finite, or `rank` is not
            positive.

    Examples:
        >>> import torch
        >>> from clip2clap.translator import fit_procrustes
        >>> source, rotation = torch.randn(200, 8), torch.linalg.qr(torch.randn(8, 8)).Q
        >>> fitted = fit_procrustes(source, source @ rotation, center=False)
        >>> torch.allclose(fitted.linear.weight.T, rotation, atol=1e-4)
        True
    """
    return LinearFitter().update(source, target).procrustes(center=center, scale=scale, rank=rank)


class LinearFitter:
    """Streaming fitter of linear translators: pairs come in chunks, such as a mapped table's.

    It keeps sums in float64, whose size does not depend on the number of pairs; the fits equal
    those to all pairs at once.

    Args:
        chunk_rows: Rows widened to float64 at a time.

    Examples:
        >>> import torch
        >>> from clip2clap.translator import LinearFitter
        >>> fitter = LinearFitter()
        >>> for _ in range(3):
        ...     fitter = fitter.update(torch.randn(100, 8), torch.randn(100, 6))
        >>> fitter.rows, fitter.ridge(alpha=1.0).target_dim
        (300, 6)
    """

    def __init__(self, *, chunk_rows: int = _ROWS) -> None:
        self._chunk_rows = chunk_rows
        self.rows = 0
        """Number of pairs so far."""

    def update(self, source: Tensor, target: Tensor) -> Self:
        """Add pairs, as `fit_ridge` takes them; returns the fitter itself.

        Raises:
            UserError: As in `fit_ridge`, or if the shapes differ from before.
        """
        check_pairs(source, target, rows_before=self.rows)
        sizes = (source.shape[1], target.shape[1])
        if self.rows == 0:
            self._source = Moments(sizes[0], covariance=True)
            self._target = Moments(sizes[1])
            self._products = torch.zeros(sizes, dtype=torch.float64)
        elif (before := tuple(self._products.shape)) != sizes:
            raise UserError(
                f"Expected pairs of {before[0]} and {before[1]} values, as the {self.rows} before, "
                f"got {sizes[0]} and {sizes[1]}."
            )
        for chunk in zip(
            source.split(self._chunk_rows), target.split(self._chunk_rows), strict=True
        ):
            x, y = (unit_norm(side.cpu()).double() for side in chunk)
            self._source.update(x)
            self._target.update(y)
            self._products.addmm_(x.T, y)
        self.rows += len(source)
        return self

    def ridge(
        self,
        *,
        alpha: float = 1.0,
        center: bool = True,
        scale: bool = False,
        noise: float = 0.0,
        rank: int | None = None,
    ) -> LinearTranslator:
        """Fit a linear map by ridge regression, as `fit_ridge` does.

        Args:
            alpha: Weight of the penalty.
            center: As in `fit_ridge`.
            scale: As in `fit_ridge`.
            noise: Standard deviation of Gaussian noise on each value of the source's unit vectors:
                a penalty of rows * noise² on the matrix, the noise's effect on average; see Bishop
                (1995), https://doi.org/10.1162/neco.1995.7.1.108.
            rank: Largest rank of the matrix, by reduced-rank regression; see Mukherjee and Zhu
                (2011), https://doi.org/10.1002/sam.10138. None does not bound it.

        Raises:
            UserError: If there are no pairs, an argument is out of range, or the pairs don't
                determine the matrix without a penalty.
        """
        for name, value in (("alpha", alpha), ("noise", noise)):
            if not 0 <= value < float("inf"):
                raise UserError(
                    f"Expected {name} to be 0 or a positive number, got {value!r}.", param=name
                )
        _check_rank(rank)
        problem = self._problem(center, scale)
        weights = alpha + self.rows * noise**2 / problem.source_scale**2
        penalized = problem.source_source + torch.diag(weights)
        factor, info = torch.linalg.cholesky_ex(penalized)
        # A matrix that is singular in exact arithmetic may still factor, with a tiny pivot.
        pivots = factor.diagonal()
        if info.item() != 0 or pivots.min() < 1e-7 * pivots.max():
            raise UserError(
                f"{self.rows} pairs of {len(pivots)} values don't determine the matrix at "
                f"alpha={alpha:g}. Give a larger alpha, such as 1, or more pairs.",
                param="alpha",
            )
        # The target's dimensions are fitted one by one, so that their scale changes nothing.
        matrix = torch.cholesky_solve(problem.source_target * problem.target_scale, factor)
        recipe: dict[str, Any] = {"method": "ridge", "alpha": float(alpha), "noise": float(noise)}
        if rank is not None:
            # The directions of the target in which the predictions vary most.
            _, directions = torch.linalg.eigh(matrix.T @ penalized @ matrix)
            kept = directions[:, -rank:]
            matrix = matrix @ kept @ kept.T
            recipe["rank"] = rank
        return problem.translator(matrix / problem.source_scale[:, None], recipe)

    def procrustes(
        self, *, center: bool = True, scale: bool = False, rank: int | None = None
    ) -> LinearTranslator:
        """Fit the best rotation, as `fit_procrustes`.

        With `rank`, only that many axes are kept, in the order of the covariance that they share:
        the spectral truncation of COMET (Zhu et al. 2026, https://arxiv.org/abs/2605.29628), which
        drops what one side does not tell about the other. COMET keeps 100 axes of 1,024.

        Raises:
            UserError: If there are no pairs, or `rank` is not positive.
        """
        _check_rank(rank)
        problem = self._problem(center, scale)
        left, _, right = torch.linalg.svd(problem.source_target, full_matrices=False)
        matrix = left[:, :rank] @ right[:rank]
        matrix = matrix / problem.source_scale[:, None] * problem.target_scale
        recipe: dict[str, Any] = {"method": "procrustes"}
        return problem.translator(matrix, recipe if rank is None else {**recipe, "rank": rank})

    def _problem(self, center: bool, scale: bool) -> "_Problem":
        """Return the centered and scaled sums."""
        if self.rows == 0:
            raise UserError("There are no pairs to fit to: give some to `update` first.")
        means: list[Tensor] = []
        scales: list[Tensor] = []
        for moments in (self._source, self._target):
            mean, variance = torch.from_numpy(moments.mean), torch.from_numpy(moments.variance)
            squares = variance + mean.square()
            if not center:
                mean, variance = torch.zeros_like(mean), squares
            # The variance of a constant is rounding alone.
            varies = (variance > 1e-12 * squares) & scale
            means.append(mean)
            scales.append(torch.where(varies, variance, 1.0).sqrt())
        source_source = torch.from_numpy(self._source.scatter)
        if not center:
            mean = torch.from_numpy(self._source.mean)
            source_source = source_source + self.rows * torch.outer(mean, mean)
        source_target = self._products - self.rows * torch.outer(*means)
        return _Problem(
            source_source=source_source / torch.outer(scales[0], scales[0]),
            source_target=source_target / torch.outer(*scales),
            source_mean=means[0],
            target_mean=means[1],
            source_scale=scales[0],
            target_scale=scales[1],
            options={"center": center, "scale": scale},
        )


class _Problem(NamedTuple):
    """Least-squares problem: products of the centered and scaled pairs, and how to undo both."""

    source_source: Tensor
    source_target: Tensor
    source_mean: Tensor
    target_mean: Tensor
    source_scale: Tensor
    target_scale: Tensor
    options: dict[str, bool]

    def translator(self, matrix: Tensor, recipe: dict[str, Any]) -> LinearTranslator:
        """Return a translator with a matrix of shape (d_source, d_target), for unscaled vectors."""
        center = self.options["center"]
        provenance = Provenance(recipe={**recipe, **self.options})
        fitted = LinearTranslator(*matrix.shape, bias=center, provenance=provenance).float()
        with torch.no_grad():
            fitted.linear.weight.copy_(matrix.T)
            if center:
                fitted.linear.bias.copy_(self.target_mean - self.source_mean @ matrix)
        return fitted.eval()


def _check_rank(rank: int | None) -> None:
    if rank is not None and rank < 1:
        raise UserError(f"Expected rank to be a positive whole number, got {rank!r}.", param="rank")


def check_pairs(source: Tensor, target: Tensor, *, rows_before: int = 0) -> None:
    """Raise `UserError` if two tensors are not pairs, row by row, or a vector has no direction.

    The message counts rows from `rows_before`.
    """
    for name, side in (("source", source), ("target", target)):
        _check_matrix(name, side)
    if len(source) != len(target) or len(source) == 0:
        raise UserError(
            f"Expected pairs, row by row, got {len(source)} source and {len(target)} target rows."
        )
    for name, side in (("source", source), ("target", target)):
        check_vectors(name, side, rows_before=rows_before)


def check_vectors(name: str, side: Tensor, *, rows_before: int = 0) -> None:
    """Raise `UserError` if a side of the data is no matrix, or a row has no direction.

    The message names the side, and counts rows from `rows_before`.
    """
    _check_matrix(name, side)
    norms = torch.cat([chunk.float().norm(dim=-1) for chunk in side.split(_ROWS)])
    bad = (~((norms > 0) & norms.isfinite())).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"{len(bad)} of {len(side)} {name} rows are zero or not finite (the first is row "
            f"{rows_before + bad[0]}). Leave them out, or compute them again."
        )


def _check_matrix(name: str, side: Tensor) -> None:
    if not isinstance(side, Tensor) or side.dim() != 2 or not side.is_floating_point():
        got = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side)
        raise UserError(f"Expected {name} to be a floating tensor of shape (n, d), got {got}.")
