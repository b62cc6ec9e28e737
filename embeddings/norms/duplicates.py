"""Near-duplicate rows of a column of embeddings, searched by random projections.

See SimHash (Charikar, 2002), https://doi.org/10.1145/509907.509965.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clip2clap.embeddings.table.reader import EmbeddingTable

_BLOCK = 4096
_GROUPS_SHOWN = 20
_IDS_SHOWN = 10
# Bits of a signature, the signs of as many random projections.
_BITS = 128
_ROUNDS = 16
_NEIGHBORS = 32
# Rows that differ in more bits are more than 45 degrees apart relative to the mean.
_MAX_DIFFERENT_BITS = _BITS // 4
_BIT_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True)
class NearDuplicates:
    """Near-duplicate rows of a column: those with another of at least this `cosine` similarity."""

    cosine: float
    rows: int
    groups: int
    """Groups of rows that are linked, directly or through others."""

    largest: list[dict[str, Any]]
    """Largest groups: their number of `rows`, and the first of their `ids`."""


class Vectors:
    """Column of embeddings as arrays over the mapped files."""

    def __init__(self, table: EmbeddingTable, column: str):
        dim = table.spaces[column].dim
        chunks = [np.from_dlpack(chunk.flatten()) for chunk in table.data[column].chunks]
        self._parts = [chunk.reshape(-1, dim) for chunk in chunks]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.dtype = self._parts[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield all vectors in order, shape (at most 4096, dim), float32."""
        for part in self._parts:
            for start in range(0, len(part), _BLOCK):
                yield part[start : start + _BLOCK].astype(np.float32)

    def at(self, indices: np.ndarray) -> np.ndarray:
        """Return the vectors at some indices, shape (n, dim), float32, unit norm."""
        vectors = np.empty((len(indices), self._parts[0].shape[1]), np.float32)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            vectors[mine] = self._parts[owner][indices[mine] - self._starts[owner]]
        return unit_rows(vectors)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors scaled to L2 norm 1, shape (n, dim), float32; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def find_near_duplicates(
    vectors: Vectors,
    table: EmbeddingTable,
    center: np.ndarray,
    cosine: float,
    advance: Callable[[int], None],
) -> NearDuplicates:
    """Group near-duplicate rows without comparing every row with every other.

    Every row gets a signature of random bits. In the first round, rows with the same signature are
    neighbors, in each further one those that agree in some of its bits; neighbors with close
    signatures are compared. The center is the mean of the vectors at unit norm, shape (dim,);
    `advance` is called with the number of rows of each block.
    """
    random = np.random.default_rng(0)
    planes = random.standard_normal((len(center), _BITS), np.float32)
    signatures, central = _signatures(vectors, center, planes, cosine, advance)
    # Rows in the order of their signatures: the most similar of those with equal bits are adjacent.
    rows = np.lexsort(signatures.view(np.uint64).T)
    signatures = signatures[rows]
    groups = np.arange(len(rows))
    indices = np.flatnonzero(central[rows])
    _link(groups, indices[1:], indices[:-1])
    changes = (signatures[1:] != signatures[:-1]).any(axis=1)
    codes = np.concatenate([[0], np.cumsum(changes)])
    # Enough bits to tell unrelated rows apart.
    bits = min(32, max(8, len(rows).bit_length()))
    for _ in range(_ROUNDS):
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        for distance in range(1, min(_NEIGHBORS, len(codes) - 1) + 1):
            indices = np.flatnonzero(codes[distance:] == codes[:-distance])
            if not len(indices):
                break
            for start in range(0, len(indices), _BLOCK):
                here = indices[start : start + _BLOCK]
                pairs = _candidates(signatures, groups, order[here], order[here + distance])
                ones, others = vectors.at(rows[pairs[0]]), vectors.at(rows[pairs[1]])
                similar = np.einsum("nd,nd->n", ones, others) >= cosine
                _link(groups, *pairs[:, similar])
        codes = _codes(signatures, random.choice(_BITS, bits, replace=False))
    found = np.empty_like(groups)
    found[rows] = _roots(groups, np.arange(len(groups)))
    return _summary(found, table, cosine)


def _signatures(
    vectors: Vectors,
    center: np.ndarray,
    planes: np.ndarray,
    cosine: float,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the packed signature of every row, and which rows are close to the center."""
    # Embeddings fill a narrow cone; relative to its center, they point in all directions.
    offset = (center @ planes).astype(np.float32)
    signatures = np.empty((len(vectors), _BITS // 8), np.uint8)
    # Seen from the center, the directions of rows this close are noise. Any two of them are
    # near-duplicates: each is within half the angle that the cosine allows.
    central = np.zeros(len(vectors), bool)
    direction = unit_rows(center[None])[0]
    limit = np.cos(np.arccos(cosine) / 2)
    start = 0
    for block in vectors.blocks():
        units = unit_rows(block)
        here = slice(start, start + len(block))
        signatures[here] = np.packbits(units @ planes > offset, axis=1)
        central[here] = units @ direction >= limit
        start += len(block)
        advance(len(block))
    return signatures, central


def _codes(signatures: np.ndarray, bits: np.ndarray) -> np.ndarray:
    codes = np.zeros(len(signatures), np.uint32)
    for index, bit in enumerate(bits):
        codes |= ((signatures[:, bit // 8] >> (bit % 8)) & 1).astype(np.uint32) << index
    return codes


def _candidates(
    signatures: np.ndarray, groups: np.ndarray, ones: np.ndarray, others: np.ndarray
) -> np.ndarray:
    """Return the pairs to compare, shape (2, n): not yet linked, with close signatures."""
    different = _BIT_COUNTS[signatures[ones] ^ signatures[others]].sum(axis=1)
    apart = _roots(groups, ones) != _roots(groups, others)
    return np.stack([ones, others])[:, apart & (different <= _MAX_DIFFERENT_BITS)]


def _roots(groups: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the root of each row's group: the row that points at itself."""
    while True:
        here = groups[indices]
        roots = groups[here]
        if np.array_equal(roots, here):
            return roots
        groups[indices] = roots  # path halving


def _link(groups: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Merge the groups of linked rows; the first row of a group is its root."""
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
    for index in np.lexsort([firsts, -sizes])[:_GROUPS_SHOWN]:
        members = np.flatnonzero(groups == numbers[index])[:_IDS_SHOWN]
        ids = [table.data["id"][int(m)].as_py() for m in members]
        largest.append({"rows": int(sizes[index]), "ids": ids})
    return NearDuplicates(cosine, int(sizes.sum()), len(sizes), largest)
