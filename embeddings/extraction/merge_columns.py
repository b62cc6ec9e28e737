"""Merging of embedding columns from a table of the same rows written with another encoder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row
from clip2clap.embeddings.table.ids import hash_ids
from clip2clap.embeddings.table.reader import EmbeddingTable


class ColumnMerger:
    """Table whose embedding columns are merged into a new one by id, with 16 bytes per row.

    A `UserError` if it has one of the columns that the new table computes itself.
    """

    def __init__(self, folder: str | Path, columns: Sequence[str]):
        self._table = EmbeddingTable.open(folder)
        self.spaces = self._table.spaces
        double = sorted(set(columns) & set(self.spaces))
        if double:
            raise UserError(
                f"{folder} has {' and '.join(double)} already: pair the embeddings of a CLIP with "
                "those of a CLAP.",
                param="pair_with",
            )
        chunks = (hash_ids(chunk.to_pylist()) for chunk in self._table.data["id"].chunks)
        hashes = np.concatenate([np.zeros(0, np.int64), *chunks])
        self._order = hashes.argsort(kind="stable")
        self._hashes = hashes[self._order]
        self._vectors = {name: self._table.tensor(name) for name in self.spaces}
        norms = (f"{name}_norm" for name in self.spaces)
        self._norms = [name for name in norms if name in self._table.sources]

    def _index(self, row_id: str) -> int | None:
        at = int(self._hashes.searchsorted(hash(row_id)))
        if at == len(self._hashes) or self._hashes[at] != hash(row_id):
            return None
        return int(self._order[at])

    def check(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, with a problem if the table lacks the row or has another caption."""
        for row in rows:
            problem = row.problem or self._problem(row)
            yield row if problem is None else replace(row, problem=problem)

    def _problem(self, row: Row) -> str | None:
        index = self._index(row.id)
        if index is None:
            return f"not in {self._table.folder}"
        if "caption" in self._table.sources and "caption" in row.columns:
            caption = self._table.data["caption"][index].as_py()
            if caption != row.columns["caption"]:
                return f"another caption in {self._table.folder}"
        return None

    def columns(self, ids: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Sequence[Any]]]:
        """Return the rows' embeddings and norms by column."""
        indices = torch.tensor([self._index(row_id) for row_id in ids], dtype=torch.long)
        embeds = {name: vectors[indices] for name, vectors in self._vectors.items()}
        data = self._table.data
        norms = {name: data[name].take(indices.numpy()).to_pylist() for name in self._norms}
        return embeds, norms
