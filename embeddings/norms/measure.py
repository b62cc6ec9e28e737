"""Norm reports: what the lengths and directions of a table's embeddings are like.

A model's raw vectors tell by their norms whether they have to be normalised; their means tell how
far apart the two sides of a joint space lie (the modality gap, Liang et al. 2022,
https://arxiv.org/abs/2203.02053); rows that are nearly the same tell what a split would leak.

Vectors are read in blocks from the mapped files. What grows with the table is some 60 bytes a row,
for its norms and for the search of near-duplicates.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.format import TableError
from clip2clap.embeddings.table.reader import EmbeddingTable

UNIT_TOLERANCE = 1e-3
"""How far from 1 a norm may be to count as unit norm."""

NEAR_DUPLICATE_COSINE = 0.999
"""Cosine similarity from which two rows count as nearly the same."""

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The shares of rows whose norm lies below a reported one."""

_BLOCK = 4096
_GROUPS_SHOWN = 20
_IDS_SHOWN = 10
# Signs of random projections (SimHash, Charikar 2002): near-duplicates differ in few of them.
_BITS = 128
_LOOKS = 16
_NEIGHBOURS = 32
# Rows that differ in more bits lie more than 45 degrees apart, seen from the mean of all.
_MOST_DIFFERENT_BITS = _BITS // 4
_BIT_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class NormStatistics:
    """The L2 norms of the rows of one column."""

    mean: float
    """Their mean."""

    deviation: float
    """Their standard deviation, over all rows."""

    minimum: float
    """The smallest."""

    maximum: float
    """The largest."""

    quantiles: dict[str, float]
    """By share of the rows, as in "0.05": the norm that so many rows stay below."""

    share_of_unit_norm: float
    """Share of the rows whose norm is within `UNIT_TOLERANCE` of 1."""

    counts: list[int]
    """The histogram: rows a bin."""

    edges: list[float]
    """The histogram: where bins begin, and where the last one ends."""


@dataclass(frozen=True)
class NearDuplicates:
    """Rows that are nearly the same as others."""

    cosine: float
    """Cosine similarity from which two rows count as nearly the same."""

    rows: int
    """Rows that have at least one near-duplicate."""

    groups: int
    """Groups that they form; rows that are linked through others belong to one."""

    largest: list[dict[str, Any]]
    """The largest groups: their number of `rows`, and the first of their `ids`."""


@dataclass(frozen=True)
class ColumnReport:
    """One column of embeddings."""

    space: EmbeddingSpace
    """Where its vectors live."""

    dtype: str
    """What they are stored as."""

    stored: NormStatistics
    """Norms of the vectors as they are stored."""

    raw: NormStatistics | None
    """Norms of the encoder's own output, if the table holds them."""

    dimension_means: list[float]
    """The mean of every dimension."""

    dimension_deviations: list[float]
    """The standard deviation of every dimension."""

    mean_resultant_length: float
    """Norm of the mean of the vectors at unit norm: 0 if they point everywhere, 1 if one way."""

    near_duplicates: NearDuplicates
    """Rows that are nearly the same."""


@dataclass(frozen=True)
class ModalityGap:
    """How far apart two columns lie, by the means of their vectors at unit norm."""

    columns: tuple[str, str]
    """The two sides."""

    same_model: bool
    """Whether they share a joint space; otherwise the figures compare unrelated axes."""

    angle: float | None
    """Angle between the means, in degrees; None if a mean is zero."""

    distance: float
    """Distance between the means: 0 if they coincide, at most 2."""


@dataclass(frozen=True)
class NormReport:
    """What `measure_norms` finds."""

    table: str
    """The table's folder."""

    rows: int
    """Its rows."""

    columns: dict[str, ColumnReport]
    """Every column of embeddings by name."""

    gaps: list[ModalityGap]
    """Every two columns of the same dimension."""

    def to_dict(self) -> dict[str, Any]:
        """Give the report as plain values, for JSON."""
        return asdict(self)


def measure_norms(
    table: EmbeddingTable,
    *,
    bins: int = 50,
    near_duplicate_cosine: float = NEAR_DUPLICATE_COSINE,
    on_progress: Callable[[float], None] | None = None,
) -> NormReport:
    """Measure norms, means, the gap between columns, and near-duplicate rows.

    Near-duplicates are searched by random projections. Copies are always found; in large tables,
    two rows that are just similar enough may be missed.

    Args:
        table: Any table of embeddings. Where it holds a column `NAME_norm` beside a column of
            embeddings `NAME`, those are reported as the norms of the encoder's raw output.
        bins: Bins of the histograms.
        near_duplicate_cosine: Cosine similarity from which two rows count as nearly the same.
        on_progress: Called with the share of the work that is done.

    Returns:
        The report.

    Raises:
        UserError: If there are no rows, an option makes no sense, or a vector holds NaN.
    """
    if bins < 1:
        raise UserError(f"Expected bins of at least 1, got {bins}.")
    if not 0.9 <= near_duplicate_cosine < 1:
        raise UserError(
            f"Expected near_duplicate_cosine from 0.9 to below 1, got {near_duplicate_cosine}: "
            "rows that differ by more are no near-duplicates."
        )
    if not len(table):
        raise TableError(f"{table.folder} holds no rows: there is nothing to measure.")
    steps = 2 * len(table.spaces) * len(table)
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if on_progress is not None:
            on_progress(done / steps)

    columns, means = {}, {}
    for name, space in table.spaces.items():
        vectors = _Vectors(table, name)
        moments = _Moments(space.dim)
        norms = _measure(vectors, moments, advance)
        means[name] = moments.direction
        raw = _raw_norms(table, name)
        columns[name] = ColumnReport(
            space=space,
            dtype=str(vectors.dtype),
            stored=_statistics(norms, bins, name),
            raw=None if raw is None else _statistics(raw, bins, f"{name}_norm"),
            dimension_means=moments.mean.tolist(),
            dimension_deviations=np.sqrt(moments.squares / len(table)).tolist(),
            mean_resultant_length=float(np.linalg.norm(moments.direction)),
            near_duplicates=_near_duplicates(
                vectors, table, moments.direction, near_duplicate_cosine, advance
            ),
        )
    gaps = [
        _gap(one, other, means, table.spaces)
        for one, other in itertools.combinations(table.spaces, 2)
        if table.spaces[one].dim == table.spaces[other].dim
    ]
    return NormReport(str(table.folder), len(table), columns, gaps)


class _Vectors:
    """A column of embeddings as arrays over the mapped files."""

    def __init__(self, table: EmbeddingTable, column: str):
        dim = table.spaces[column].dim
        data = table.rows(0, len(table))
        chunks = [chunk.flatten().to_numpy() for chunk in data[column].chunks]
        self._parts = [chunk.reshape(-1, dim) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.dtype = self._parts[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Give all vectors in order, shape (up to `_BLOCK`, d), float32."""
        for part in self._parts:
            for start in range(0, len(part), _BLOCK):
                yield part[start : start + _BLOCK].astype(np.float32)

    def at(self, places: np.ndarray) -> np.ndarray:
        """Give the vectors at some places, shape (n, d), float32, unit norm."""
        vectors = np.empty((len(places), self._parts[0].shape[1]), np.float32)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            vectors[mine] = self._parts[owner][places[mine] - self._starts[owner]]
        return _unit(vectors)


class _Moments:
    """Means and deviations that are put together block by block (Chan et al. 1979)."""

    def __init__(self, dim: int):
        self.rows = 0
        self.mean = np.zeros(dim)
        self.squares = np.zeros(dim)
        """Sum of the squared distances from the mean."""
        self.direction = np.zeros(dim)
        """Mean of the vectors at unit norm."""

    def add(self, block: np.ndarray) -> None:
        """Take in vectors, shape (n, d)."""
        total = self.rows + len(block)
        mean = block.mean(axis=0, dtype=np.float64)
        squares = np.square(block - mean).sum(axis=0)
        step = mean - self.mean
        self.squares += squares + step**2 * (self.rows * len(block) / total)
        self.mean += step * (len(block) / total)
        direction = _unit(block).mean(axis=0, dtype=np.float64)
        self.direction += (direction - self.direction) * (len(block) / total)
        self.rows = total


def _unit(vectors: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def _measure(vectors: _Vectors, moments: _Moments, advance: Callable[[int], None]) -> np.ndarray:
    norms = []
    for block in vectors.blocks():
        norms.append(np.linalg.norm(block, axis=1))
        moments.add(block)
        advance(len(block))
    return np.concatenate(norms)


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
    return data[name].to_numpy()


def _statistics(norms: np.ndarray, bins: int, column: str) -> NormStatistics:
    norms = norms.astype(np.float64)
    if not np.isfinite(norms).all():
        place = int(np.argmin(np.isfinite(norms)))
        raise TableError(
            f"{column} holds NaN or infinity in row {place}, counted from 0. Extract the table "
            "again."
        )
    low, high = float(norms.min()), float(norms.max())
    # Norms that are all the same get a bin around them.
    margin = 0.0 if high > low else max(UNIT_TOLERANCE, 1e-6 * high)
    counts, edges = np.histogram(norms, bins=bins, range=(low - margin, high + margin))
    quantiles = np.quantile(norms, QUANTILES)
    return NormStatistics(
        mean=float(norms.mean()),
        deviation=float(norms.std()),
        minimum=low,
        maximum=high,
        quantiles={str(share): float(q) for share, q in zip(QUANTILES, quantiles, strict=True)},
        share_of_unit_norm=float((np.abs(norms - 1) <= UNIT_TOLERANCE).mean()),
        counts=counts.tolist(),
        edges=edges.tolist(),
    )


def _gap(
    one: str, other: str, means: dict[str, np.ndarray], spaces: dict[str, EmbeddingSpace]
) -> ModalityGap:
    lengths = np.linalg.norm(means[one]) * np.linalg.norm(means[other])
    angle = None
    if lengths > 0:
        cosine = np.clip(means[one] @ means[other] / lengths, -1, 1)
        angle = float(np.degrees(np.arccos(cosine)))
    return ModalityGap(
        columns=(one, other),
        same_model=spaces[one].same_model_as(spaces[other]),
        angle=angle,
        distance=float(np.linalg.norm(means[one] - means[other])),
    )


def _near_duplicates(
    vectors: _Vectors,
    table: EmbeddingTable,
    centre: np.ndarray,
    cosine: float,
    advance: Callable[[int], None],
) -> NearDuplicates:
    """Group rows that are nearly the same, without comparing every row with every other.

    Every row gets a signature of random bits. In a first look, rows with the same signature are
    neighbours, in each further one those that agree in some of its bits; neighbours whose whole
    signatures are close are compared.
    """
    random = np.random.default_rng(0)
    planes = random.standard_normal((len(centre), _BITS), np.float32)
    # Embeddings fill a narrow cone: seen from its middle, they lie in all directions.
    offset = (centre @ planes).astype(np.float32)
    signatures = np.empty((len(vectors), _BITS // 8), np.uint8)
    # Rows so near to the middle that from there their directions are noise. Any two of them are
    # nearly the same: each lies within half the angle that this allows.
    central = np.zeros(len(vectors), bool)
    middle = _unit(centre[None]).astype(np.float32)[0]
    limit = np.cos(np.arccos(cosine) / 2)
    start = 0
    for block in vectors.blocks():
        units = _unit(block)
        here = slice(start, start + len(block))
        signatures[here] = np.packbits(units @ planes > offset, axis=1)
        central[here] = units @ middle >= limit
        start += len(block)
        advance(len(block))
    # From here on rows are counted in the order of their signatures, so that among rows that
    # agree in some bits the most similar are next to each other.
    rows = np.lexsort(signatures.view(np.uint64).T)
    signatures = signatures[rows]
    groups = np.arange(len(rows))
    places = np.flatnonzero(central[rows])
    _join(groups, places[1:], places[:-1])
    changes = (signatures[1:] != signatures[:-1]).any(axis=1)
    codes = np.concatenate([[0], np.cumsum(changes)])
    # As many bits as tell rows apart that have nothing to do with each other.
    bits = min(32, max(8, len(rows).bit_length()))
    for _ in range(_LOOKS):
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        for distance in range(1, min(_NEIGHBOURS, len(codes) - 1) + 1):
            places = np.flatnonzero(codes[distance:] == codes[:-distance])
            if not len(places):
                break
            for start in range(0, len(places), _BLOCK):
                here = places[start : start + _BLOCK]
                pairs = _candidates(signatures, groups, order[here], order[here + distance])
                ones, others = vectors.at(rows[pairs[0]]), vectors.at(rows[pairs[1]])
                similar = np.einsum("nd,nd->n", ones, others) >= cosine
                _join(groups, *pairs[:, similar])
        codes = _codes(signatures, random.choice(_BITS, bits, replace=False))
    found = np.empty_like(groups)
    found[rows] = _roots(groups, np.arange(len(groups)))
    return _summary(found, table, cosine)


def _codes(signatures: np.ndarray, bits: np.ndarray) -> np.ndarray:
    codes = np.zeros(len(signatures), np.uint32)
    for place, bit in enumerate(bits):
        codes |= ((signatures[:, bit // 8] >> (bit % 8)) & 1).astype(np.uint32) << place
    return codes


def _candidates(
    signatures: np.ndarray, groups: np.ndarray, ones: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Give the pairs, shape (2, n), that are worth comparing: not yet linked, and close."""
    different = _BIT_COUNTS[signatures[ones] ^ signatures[others]].sum(axis=1)
    apart = _roots(groups, ones) != _roots(groups, others)
    return np.stack([ones, others])[:, apart & (different <= _MOST_DIFFERENT_BITS)]


def _roots(groups: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Give the row that stands for each row's group: the one that points at itself."""
    while True:
        here = groups[places]
        roots = groups[here]
        if np.array_equal(roots, here):
            return roots
        groups[places] = roots  # halves the way


def _join(groups: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Put linked rows into one group, for which the first of its rows stands."""
    while True:
        roots = _roots(groups, ones), _roots(groups, others)
        apart = roots[0] != roots[1]
        if not apart.any():
            return
        low, high = np.minimum(*roots)[apart], np.maximum(*roots)[apart]
        np.minimum.at(groups, high, low)


def _summary(groups: np.ndarray, table: EmbeddingTable, cosine: float) -> NearDuplicates:
    numbers, firsts, sizes = np.unique(groups, return_index=True, return_counts=True)
    several = sizes > 1
    numbers, firsts, sizes = numbers[several], firsts[several], sizes[several]
    largest = []
    for place in np.lexsort([firsts, -sizes])[:_GROUPS_SHOWN]:
        members = np.flatnonzero(groups == numbers[place])[:_IDS_SHOWN]
        ids = [table.rows(int(m), int(m) + 1)["id"][0].as_py() for m in members]
        largest.append({"rows": int(sizes[place]), "ids": ids})
    return NearDuplicates(cosine, int(sizes.sum()), len(sizes), largest)
