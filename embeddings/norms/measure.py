"""Norm statistics of embedding tables.

The norms of an encoder's output show whether it has to be normalized; the means of the columns show
the modality gap (Liang et al., 2022, https://arxiv.org/abs/2203.02053); near-duplicate rows show
what a split would leak. Vectors are read in blocks; memory grows by about 60 bytes per row.
"""

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from clip2clap.core.errors import UserError, expect
from clip2clap.core.moments import Moments
from clip2clap.embeddings.norms.duplicates import (
    NearDuplicates,
    Vectors,
    find_near_duplicates,
    unit_rows,
)
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable

UNIT_TOLERANCE = 1e-3
"""Largest deviation from 1 of a norm that counts as unit norm."""

NEAR_DUPLICATE_COSINE = 0.999
"""Least cosine similarity of near-duplicates."""

MOST_BINS = 10_000
"""More bins of a histogram cannot be seen."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Reported quantiles of the norms."""


@dataclass(frozen=True)
class NormStatistics:
    """Statistics of the L2 norms of a column's rows; `counts` and `edges` are a histogram's."""

    mean: float
    standard_deviation: float
    minimum: float
    maximum: float
    quantiles: dict[str, float]
    """Quantiles of the norms by their probability, such as "0.05"."""

    share_of_unit_norm: float
    """Share of rows whose norm is within `UNIT_TOLERANCE` of 1."""

    counts: list[int]
    edges: list[float]


@dataclass(frozen=True)
class ColumnReport:
    """Statistics of one embedding column, as `dtype` stores it."""

    space: EmbeddingSpace
    dtype: str
    stored: NormStatistics
    raw: NormStatistics | None
    """Norms of the encoder's output, if the table holds them."""

    dimension_means: list[float]
    dimension_standard_deviations: list[float]
    mean_resultant_length: float
    """Norm of the mean of the unit-norm vectors: 0 if they cancel out, 1 if they are equal."""

    near_duplicates: NearDuplicates


@dataclass(frozen=True)
class ModalityGap:
    """Modality gap between two columns of unit-norm vectors, of which a row is a pair."""

    columns: tuple[str, str]
    same_model: bool
    """Whether they share a joint space; otherwise the axes are unrelated."""

    angle: float | None
    """Angle between the means, in degrees; None if a mean is zero."""

    distance: float
    """Distance between the means, the centroid gap: 0 if they coincide, at most 2."""

    distribution_distance: float
    """Root mean square distance between the two vectors of a row after the means are subtracted,
    the distribution gap. Its square and that of `distance` add up to the mean squared distance of
    the rows. Liu et al. (2026, https://arxiv.org/abs/2604.00279) find that it predicts the quality
    of cross-modal tasks, and that the distance between the means does not."""


@dataclass(frozen=True)
class NormReport:
    """Norm report of a table's folder: its columns, and the gap of every two of one dimension."""

    table: str
    rows: int
    columns: dict[str, ColumnReport]
    gaps: list[ModalityGap]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return asdict(self)


def measure_norms(
    table: EmbeddingTable,
    *,
    bins: int = 50,
    near_duplicate_cosine: float = NEAR_DUPLICATE_COSINE,
    on_progress: Callable[[float], None] | None = None,
) -> NormReport:
    """Measure norms, means, modality gap and near-duplicate rows of a table.

    Near-duplicates are searched by random projections: copies are always found, but in large tables
    two rows at the threshold may be missed.

    Examples:
        >>> import torch
        >>> from clip2clap.embeddings import EmbeddingSpace, EmbeddingTable, TableWriter
        >>> from clip2clap.embeddings import measure_norms
        >>> space = EmbeddingSpace("clip", "a/clip", "text", 4, True, "weights")
        >>> with TableWriter("captions", {"clip_text": space}) as writer:
        ...     writer.append(["a", "b"], {}, {"clip_text": torch.eye(2, 4)})
        >>> report = measure_norms(EmbeddingTable.open("captions"))
        >>> report.columns["clip_text"].stored.mean
        1.0

    Args:
        table: Embedding table. A column `NAME_norm` beside an embedding column `NAME` is reported
            as the norms of the encoder's output.
        bins: Bins of the histograms.
        near_duplicate_cosine: Least cosine similarity of near-duplicates.
        on_progress: Called with the share of the work that is done.

    Raises:
        UserError: If the table has no rows, an option is out of range, or a vector holds NaN.
    """
    expect(1 <= bins <= MOST_BINS, "bins", f"from 1 to {MOST_BINS:,}", bins)
    if not 0.9 <= near_duplicate_cosine < 1:
        raise UserError(
            f"Expected near_duplicate_cosine from 0.9 to below 1, got {near_duplicate_cosine}: "
            "rows that differ by more are no near-duplicates.",
            param="near_duplicate_cosine",
        )
    if not len(table):
        raise TableError(f"{table.folder} holds no rows: there is nothing to measure.")
    columns, means = {}, {}
    work, done = 2 * len(table.spaces) * len(table), 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress is not None:
            on_progress(done / work)

    measure = partial(_measure_column, table, bins, near_duplicate_cosine, advance)
    for name in table.spaces:
        columns[name], means[name] = measure(name)
    gaps = [
        _gap(table, one, other, means)
        for one, other in itertools.combinations(table.spaces, 2)
        if table.spaces[one].dim == table.spaces[other].dim
    ]
    return NormReport(str(table.folder), len(table), columns, gaps)


def _measure_column(
    table: EmbeddingTable, bins: int, cosine: float, advance: Callable[[int], None], name: str
) -> tuple[ColumnReport, np.ndarray]:
    """Return the report of a column, and the mean of its vectors at unit norm."""
    vectors = Vectors(table, name)
    dim = table.spaces[name].dim
    moments, directions, norms = Moments(dim), Moments(dim), []
    for block in vectors.blocks():
        norms.append(np.linalg.norm(block, axis=1))
        moments.update(block)
        directions.update(unit_rows(block))
        advance(len(block))
    direction = directions.mean
    raw = _raw_norms(table, name)
    return ColumnReport(
        space=table.spaces[name],
        dtype=str(vectors.dtype),
        stored=_statistics(np.concatenate(norms), bins, name),
        raw=None if raw is None else _statistics(raw, bins, f"{name}_norm"),
        dimension_means=moments.mean.tolist(),
        dimension_standard_deviations=np.sqrt(moments.variance).tolist(),
        mean_resultant_length=float(np.linalg.norm(direction)),
        near_duplicates=find_near_duplicates(vectors, table, direction, cosine, advance),
    ), direction


def _raw_norms(table: EmbeddingTable, column: str) -> np.ndarray | None:
    name = f"{column}_norm"
    data = table.rows(0, len(table))
    if name not in data.column_names:
        return None
    if not pa.types.is_floating(data[name].type) or data[name].null_count:
        raise TableError(
            f"Expected a number in every row of {name}, got {data[name].type} with "
            f"{data[name].null_count} rows empty. Extract the table again."
        )
    # Unlike to_numpy, this does not import pandas.
    return np.concatenate([np.from_dlpack(chunk) for chunk in data[name].chunks])


def _statistics(norms: np.ndarray, bins: int, column: str) -> NormStatistics:
    norms = norms.astype(np.float64)
    if not np.isfinite(norms).all():
        index = int(np.argmin(np.isfinite(norms)))
        raise TableError(
            f"{column} holds NaN or infinity in row {index}, counted from 0. Extract the table "
            "again."
        )
    low, high = float(norms.min()), float(norms.max())
    # Equal norms get a bin around them.
    margin = 0.0 if high > low else max(UNIT_TOLERANCE, 1e-6 * high)
    counts, edges = np.histogram(norms, bins=bins, range=(low - margin, high + margin))
    quantiles = np.quantile(norms, QUANTILES)
    return NormStatistics(
        mean=float(norms.mean()),
        standard_deviation=float(norms.std()),
        minimum=low,
        maximum=high,
        quantiles={str(share): float(q) for share, q in zip(QUANTILES, quantiles, strict=True)},
        share_of_unit_norm=float((np.abs(norms - 1) <= UNIT_TOLERANCE).mean()),
        counts=counts.tolist(),
        edges=edges.tolist(),
    )


def _gap(table: EmbeddingTable, one: str, other: str, means: dict[str, np.ndarray]) -> ModalityGap:
    lengths = np.linalg.norm(means[one]) * np.linalg.norm(means[other])
    angle = None
    if lengths > 0:
        cosine = np.clip(means[one] @ means[other] / lengths, -1, 1)
        angle = float(np.degrees(np.arccos(cosine)))
    offset = (means[one] - means[other]).astype(np.float64)
    total = 0.0
    for pair in zip(*(Vectors(table, name).blocks() for name in (one, other)), strict=True):
        ones, others = map(unit_rows, pair)
        total += float(np.square(ones - others - offset).sum())
    return ModalityGap(
        columns=(one, other),
        same_model=table.spaces[one].same_model_as(table.spaces[other]),
        angle=angle,
        distance=float(np.linalg.norm(offset)),
        distribution_distance=float(np.sqrt(total / len(table))),
    )
