"""Nearest vectors: exact search over memory-mapped half precision, and fast search with faiss.

Fast search (the `search` extra) is for large tables: an inverted file (Jegou et al. 2011,
https://doi.org/10.1109/TPAMI.2010.57) of 8-bit vectors, whose candidates are ranked by the vectors
themselves. Its file holds nothing that the table does not: it covers the first rows of the table,
rows after these are searched exactly, and without it all are.
"""

import hashlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.files import replacing
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.table.reader import EmbeddingTable

LEAST_ROWS = 100_000
"""Rows from which on fast search is worth its file."""

_BLOCK = 65_536
# Error of an inner product of unit vectors in half precision, summed in float32: that of the query
# and that of the result, 2^-11 each.
_ROUNDING = 2.0**-10
# Rows per list for training, and queries for choosing the number of lists to search.
_TRAINED_ROWS, _TRIED_QUERIES = 40, 200
_RECALL, _NEIGHBORS = 0.95, 10
# Noise beside a unit vector, for a cosine similarity of 0.45: queries of another modality.
_DISTANCE = 2.0
# Milliseconds in a million rows.
_LEAST_LISTS = 64
# Candidates of 8-bit vectors for each result.
_CANDIDATES = 4
_NEW_SHARE = 0.01

_log = logging.getLogger(__name__)


class Vectors:
    """Column of an embedding table, for searches by inner product.

    Args:
        table: Embedding table.
        column: Column of unit vectors.
        folder: Folder with the files of fast search; None searches exactly.
        name: Name of these files.
    """

    def __init__(
        self, table: EmbeddingTable, column: str, *, folder: Path | None = None, name: str = ""
    ):
        dim = table.spaces[column].dim
        chunks = table.data[column].chunks
        self._parts = [torch.from_dlpack(c.flatten()).view(-1, dim) for c in chunks if len(c)]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.dim = dim
        self._fast: Any = None
        self._covered = 0
        if folder is not None and len(self) >= LEAST_ROWS:
            self._fast, self._covered = read_nearest(table, folder, name)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def is_fast(self) -> bool:
        """True if searches of all rows may miss some of the nearest."""
        return self._fast is not None

    def at(self, rows: np.ndarray) -> Tensor:
        """Return the vectors of some rows, shape (n, dim), float32."""
        vectors = torch.empty(len(rows), self.dim)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            (mine,) = np.nonzero(owners == owner)
            inside = torch.from_numpy(rows[mine] - self._starts[owner])
            vectors[torch.from_numpy(mine)] = self._parts[owner][inside].float()
        return vectors

    def search(
        self, query: Tensor, k: int, *, rows: np.ndarray | None = None, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the rows of the largest inner products with a query.

        Args:
            query: Query, shape (dim,), float32, unit norm.
            k: Number of rows to find; fewer if there are fewer.
            rows: Rows to search, ascending; None searches all.
            exact: Whether to compare with every row.

        Returns:
            Inner products, descending, and rows, both of shape (at most k,).
        """
        if rows is not None and len(rows) < len(self) // 8:
            places = rows
        elif rows is None and self._fast is not None and not exact:
            (found,) = self._fast.search(query[None].numpy(), _CANDIDATES * k)[1]
            found = found[found >= 0].astype(np.int64)
            places = np.concatenate([found, self._near(query, k, start=self._covered)])
        else:
            places = self._near(query, k, rows=rows)
        scores = self.at(places) @ query
        best = scores.topk(min(k, len(scores)))
        return best.values.numpy(), places[best.indices.numpy()]

    def _near(
        self, query: Tensor, k: int, *, start: int = 0, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Return all rows, from a start on or of some, that may be among the k nearest."""
        products = [torch.zeros(0)]
        for part, first in zip(self._parts, self._starts.tolist(), strict=False):
            part = part[max(start - first, 0) :]
            if len(part):
                # Half precision times half precision reads half the memory of float32.
                products.append(torch.mv(part, query.to(part.dtype)).float())
        scores = torch.cat(products)
        if rows is not None:
            scores = scores[torch.from_numpy(rows)]
        if len(scores) > k:
            least = scores.topk(k).values[-1] - 2 * _ROUNDING
            places = (scores >= least).nonzero()[:, 0].numpy()
        else:
            places = np.arange(len(scores))
        return places + start if rows is None else rows[places]


def read_nearest(table: EmbeddingTable, folder: Path, name: str) -> tuple[Any, int]:
    """Return the fast search over the first rows of a table, and their number; None without one."""
    faiss = _faiss()
    for file in folder.glob(f"{name}-*.faiss") if faiss else ():
        _, rows, digest = file.stem.rsplit("-", 2)
        if rows.isdigit() and int(rows) <= len(table) and _digest(table, int(rows)) == digest:
            try:
                return faiss.read_index(str(file)), int(rows)
            except RuntimeError as error:
                _log.warning("%s is damaged, and not used: %s", file, error)
    return None, 0


def renew_nearest(table: EmbeddingTable, folder: Path, name: str) -> None:
    """Build or extend the files of fast search for the columns of a table, where it is worth it."""
    faiss = _faiss()
    if faiss is None:
        return
    for column in table.spaces:
        stem = f"{name}.{column}"
        vectors = Vectors(table, column)
        index, rows = read_nearest(table, folder, stem)
        if len(table) < LEAST_ROWS or (index and len(table) - rows <= _NEW_SHARE * len(table)):
            continue
        if index is None or index.nlist != _lists(len(table)):
            index, rows = _train(faiss, vectors), 0
        _add(index, vectors, rows)
        if rows == 0:
            _choose_lists(index, vectors)
        file = folder / f"{stem}-{len(table)}-{_digest(table, len(table))}.faiss"
        with replacing(file) as partial:
            faiss.write_index(index, str(partial))
        for other in folder.glob(f"{stem}-*.faiss"):
            if other != file:
                other.unlink()


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return faiss


def _lists(rows: int) -> int:
    """Return the number of lists: a power of 2, about twice the square root of the rows."""
    return 2 ** round(math.log2(2 * math.sqrt(rows)))


def _train(faiss: Any, vectors: Vectors) -> Any:
    lists = _lists(len(vectors))
    kind = f"IVF{lists},SQ8"
    index = faiss.index_factory(vectors.dim, kind, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = 10
    index.cp.min_points_per_centroid = 1
    index.train(_sample(vectors, _TRAINED_ROWS * lists).numpy())
    return index


def _sample(vectors: Vectors, count: int) -> Tensor:
    random = np.random.default_rng(0)
    count = min(count, len(vectors))
    return vectors.at(np.sort(random.choice(len(vectors), count, replace=False)))


def _add(index: Any, vectors: Vectors, start: int) -> None:
    for low in range(start, len(vectors), _BLOCK):
        index.add(vectors.at(np.arange(low, min(low + _BLOCK, len(vectors)))).numpy())


def _choose_lists(index: Any, vectors: Vectors) -> None:
    """Search as many lists as are needed for queries far from all vectors, as texts are."""
    queries = _sample(vectors, _TRIED_QUERIES)
    noise = torch.randn(queries.shape, generator=torch.Generator().manual_seed(0))
    queries = unit_norm(queries + _DISTANCE * unit_norm(noise))
    exact = [set(vectors.search(query, _NEIGHBORS)[1].tolist()) for query in queries]
    index.nprobe = _LEAST_LISTS
    while index.nprobe < index.nlist:
        found = index.search(queries.numpy(), _CANDIDATES * _NEIGHBORS)[1]
        hits = sum(len(a.intersection(b.tolist())) for a, b in zip(exact, found, strict=True))
        if hits >= _RECALL * sum(map(len, exact)):
            return
        index.nprobe *= 2


def _digest(table: EmbeddingTable, rows: int) -> str:
    """Return a hash of the ids of the first rows, which name the contents of their vectors."""
    digest = hashlib.blake2b(digest_size=8)
    for chunk in table.data["id"].slice(0, rows).chunks:
        for start in range(0, len(chunk), _BLOCK):
            digest.update("".join(chunk.slice(start, _BLOCK).to_pylist()).encode())
    return digest.hexdigest()
