"""Take over the columns of a table that was made from the same rows with another encoder."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.rows import Row
from clip2clap.embeddings.table.reader import EmbeddingTable


class Partner:
    """A table to be joined by id, looked up in 16 bytes a row."""

    def __init__(self, folder: str | Path, columns: Sequence[str]):
        """Open the table.

        Args:
            folder: The table.
            columns: The columns that the new table is to have of its own.

        Raises:
            UserError: If it has one of these columns already, or can't be read.
        """
        self._table = EmbeddingTable.open(folder)
        double = sorted(set(columns) & set(self._table.spaces))
        if double:
            raise UserError(
                f"{folder} has {' and '.join(double)} already: pair the embeddings of a CLIP with "
                "those of a CLAP."
            )
        self.spaces = self._table.spaces
        ids = self._table.rows(0, len(self._table))["id"]
        hashes = np.concatenate(
            [
                np.zeros(0, np.int64),
                *(np.fromiter(map(hash, c.to_pylist()), np.int64, len(c)) for c in ids.chunks),
            ]
        )
        self._order = hashes.argsort(kind="stable")
        self._hashes = hashes[self._order]
        self._vectors = {name: self._table.tensor(name) for name in self.spaces}
        self._kept = [f"{name}_norm" for name in self.spaces if self._has(f"{name}_norm")]

    def _has(self, column: str) -> bool:
        return column in self._table.sources

    def _place(self, row_id: str) -> int | None:
        at = int(self._hashes.searchsorted(hash(row_id)))
        if at == len(self._hashes) or self._hashes[at] != hash(row_id):
            return None
        return int(self._order[at])

    def checked(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Note on each row whether it has a partner."""
        for row in rows:
            problem = row.problem or self._why_not(row)
            yield row if problem is None else replace(row, problem=problem)

    def _why_not(self, row: Row) -> str | None:
        place = self._place(row.id)
        if place is None:
            return f"not in {self._table.folder}"
        if self._has("caption") and "caption" in row.columns:
            caption = self._table.rows(place, place + 1)["caption"][0].as_py()
            if caption != row.columns["caption"]:
                return f"another caption in {self._table.folder}"
        return None

    def columns(self, ids: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Sequence[Any]]]:
        """Give the rows' embeddings and norms by column."""
        places = torch.tensor([self._place(row_id) for row_id in ids], dtype=torch.long)
        embeds = {name: vectors[places] for name, vectors in self._vectors.items()}
        everything = self._table.rows(0, len(self._table))
        kept = {name: everything[name].take(places.numpy()).to_pylist() for name in self._kept}
        return embeds, kept
