"""Embedding tables on disk, memory-mapped."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip2clap.core.errors import one_line
from clip2clap.core.files import as_path, replacing
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.format import (
    STATE_FILE,
    TableError,
    TableState,
    dtype_of,
    explain_damage,
    explain_write_errors,
    locate,
    map_file,
    read_failures,
    read_spaces,
)

if TYPE_CHECKING:
    from torch import Tensor


class EmbeddingTable:
    """Memory-mapped table of embeddings: ids, source columns, and one column per space.

    Examples:
        >>> from clip2clap import ClipEncoder, EmbeddingTable
        >>> from clip2clap.embeddings import TableWriter
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> with TableWriter("captions", {"clip_text": clip.space("text")}) as writer:
        ...     writer.append(["a", "b"], {}, {"clip_text": clip.encode_text(["rain", "a dog"])})
        >>> table = EmbeddingTable.open("captions")
        >>> len(table), table.ids, list(table.spaces)
        (2, ['a', 'b'], ['clip_text'])
        >>> embeds = table.tensor("clip_text")  # (n, dim), float16
    """

    def __init__(self, folder: Path, state: TableState, parts: Sequence[pa.Table]):
        self.folder = folder
        self.settings = state.settings
        try:
            self.data = pa.concat_tables(parts)
        except pa.ArrowException as error:
            raise TableError(f"The files of {folder} differ ({one_line(error)}).") from error
        self.spaces = read_spaces(self.data.schema, folder)
        self._state = state

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a table that `TableWriter` wrote.

        Small files are compared with their checksums; `verify` does so with all.

        Raises:
            TableError: If the folder holds no table, or a file is missing or damaged.
        """
        path = as_path(folder)
        state = TableState.read(path)
        if state is None:
            raise TableError(
                f"{folder} holds no table of embeddings (no {STATE_FILE}). Give the folder that "
                "an extraction wrote."
            )
        return cls(path, state, [state.open_file(file) for file in state.files])

    def verify(self) -> bool:
        """Read all files and compare them with the checksums that they were written with.

        Returns:
            False if there are no checksums to compare with, as in tables of older versions.

        Raises:
            TableError: If a file has changed, is missing or damaged.
        """
        for file in self._state.files:
            self._state.open_file(file, is_thorough=True)
        self.failures()
        return len(self._state.checksums) == len(self._state.files)

    def __len__(self) -> int:
        return self.data.num_rows

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {space}" for name, space in self.spaces.items())
        return f"EmbeddingTable({str(self.folder)!r}, {len(self)} rows, {columns})"

    @property
    def ids(self) -> list[str]:
        """Ids of the rows, in order."""
        return self.data["id"].to_pylist()

    @property
    def sources(self) -> list[str]:
        """Names of the columns with each row's origin: captions, files, URLs, splits."""
        return [name for name in self.data.column_names if name not in ("id", *self.spaces)]

    def source(self, column: str) -> list[Any]:
        """Return the values of one of the columns in `sources`."""
        if column not in self.sources:
            raise TableError(f"Expected one of {', '.join(self.sources)}, got {column!r}.")
        return self.data[column].to_pylist()

    def tensor(self, column: str) -> "Tensor":
        """Return the embeddings of one space, shape (n, dim), in the dtype of the file.

        A column in one file shares the mapped memory and is not read before it is used. Writing to
        the tensor changes neither the file nor other tensors of the table.
        """
        import torch

        return torch.from_numpy(self.to_numpy(column))

    def to_numpy(self, column: str) -> np.ndarray:
        """Return the embeddings of one space as an array, shape (n, dim); see `tensor`."""
        parts = [part for file in self._state.files for part in self._views(file, column)]
        return parts[0] if len(parts) == 1 else np.concatenate([self._empty(column, 0), *parts])

    def _empty(self, column: str, rows: int) -> np.ndarray:
        return np.empty((rows, self._space(column).dim), dtype_of(self.data.schema, column))

    def _views(self, file: Path, column: str) -> Iterator[np.ndarray]:
        """Yield views of a column's chunks in a file that is mapped anew, shape (rows, dim)."""
        dim, dtype = self._space(column).dim, dtype_of(self.data.schema, column)
        data, memory = map_file(file)
        for offset, count in locate(data, memory, column):
            yield np.frombuffer(memory, dtype, count, offset).reshape(-1, dim)

    def chunks(self, *columns: str, rows: int = 65_536) -> "Iterator[tuple[Tensor, ...]]":
        """Yield the embeddings of some spaces in chunks, which bound the memory.

        A chunk is one tensor per column, shape (rows, dim), in the dtype of the file; the last may
        have fewer rows.
        """
        import torch

        dims = {column: self._space(column).dim for column in columns}
        for start in range(0, len(self), rows):
            chunk = self.data.slice(start, rows)
            yield tuple(
                # Unlike to_numpy, this does not import pandas.
                torch.tensor(np.from_dlpack(chunk[column].combine_chunks().flatten())).view(-1, dim)
                for column, dim in dims.items()
            )

    def read(self, column: str, rows: "Tensor") -> "Tensor":
        """Copy some embeddings of one space, without keeping the files mapped.

        Unlike pages of `tensor`, which stay in memory once read, only the result is in memory:
        shape (m, dim), in the dtype of the file, for the indices of rows in ascending order.
        """
        import torch

        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < len(self):
            raise TableError(
                f"Expected rows within 0 and {len(self)}, got {int(rows[0])} to {int(rows[-1])}."
            )
        values = torch.from_numpy(self._empty(column, len(rows)))
        first = 0
        for file in self._state.files:
            for part in self._views(file, column):
                bounds = torch.tensor([first, first + len(part)])
                low, high = torch.searchsorted(rows, bounds).tolist()
                indices, out = rows[low:high] - first, values[low:high]
                torch.index_select(torch.from_numpy(part), 0, indices, out=out)
                first += len(part)
        return values

    def rows(self, start: int, stop: int) -> pa.Table:
        """Return the rows from `start` up to `stop`, without copying."""
        if not 0 <= start <= stop <= len(self):
            raise TableError(f"Expected rows within 0 and {len(self)}, got {start} to {stop}.")
        return self.data.slice(start, stop - start)

    def failures(self, limit: int | None = None) -> dict[str, str]:
        """Return the reason of failure by id for the rows that failed, or for the first ones."""
        batches = read_failures(self._state.failures)
        rows = (zip(*(c.to_pylist() for c in batch.columns), strict=True) for batch in batches)
        return dict(islice(chain.from_iterable(rows), limit))

    def to_parquet(self, path: str | Path) -> None:
        """Export everything but the failures to one Parquet file, with the spaces."""
        target = as_path(path)
        consequence = "The table is unchanged."
        with explain_write_errors(target.parent, consequence), replacing(target) as partial:
            pq.write_table(self.data, partial, compression="zstd")

    @classmethod
    def from_parquet(cls, path: str | Path, folder: str | Path) -> Self:
        """Import a Parquet file that `to_parquet` wrote into the folder of a new table."""
        from clip2clap.embeddings.table.writer import TableWriter

        try:
            data = pq.ParquetFile(path)
            schema = data.schema_arrow
        except (OSError, ValueError, pa.ArrowException) as error:
            raise TableError(f"{path} can't be read as Parquet: {one_line(error)}") from error
        spaces = read_spaces(schema, path)
        with explain_damage(Path(path)):
            dtype = dtype_of(schema, next(iter(spaces)))
            with TableWriter(folder, spaces, dtype=dtype) as writer:
                for batch in data.iter_batches():
                    writer.append_table(pa.Table.from_batches([batch], schema))
        return cls.open(folder)

    def _space(self, column: str) -> EmbeddingSpace:
        if column not in self.spaces:
            raise TableError(
                f"{self.folder} has no embeddings {column!r}, only {', '.join(self.spaces)}."
            )
        return self.spaces[column]
