"""The table that stores embeddings: a folder of Arrow files that `datasets` opens too.

A folder holds `data-*.arrow` (Arrow streams, one fixed-size list of float16 or float32 per space,
the spaces in the schema's metadata), `state.json` and `dataset_info.json` (what
`datasets.load_from_disk` reads), and `failures.parquet` if there were any. `state.json` names the
files that count and is replaced last, in one step: a run that was killed has written all of a
batch of rows and failures or none of it.
"""

import contextlib
import errno
import hashlib
import io
import json
import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, get_args

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import replacing
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model

Dtype = Literal["float16", "float32"]

_STATE_FILE = "state.json"
_INFO_FILE = "dataset_info.json"
_FAILURES_FILE = "failures.parquet"
_LOCK_FILE = ".lock"
# What state.json holds for us, beside what `datasets` reads from it.
_OUR_STATE = "clip2clap"
_METADATA_KEY = b"clip2clap.spaces"
_FAILURES_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string())])
_ARROW_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# A closed table is put together into files of this size: few enough to map, and a column of a
# file is one piece of memory, which a tensor can share.
_FILE_BYTES = 2**30
# Unit-norm vectors in half precision are off by less than this.
_NORM_TOLERANCE = 1e-2
# Vectors checked at once; their norms are taken in float32, a copy of these many.
_CHECKED_ROWS = 16_384
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class TableError(UserError):
    """A table that can't be read, or rows that don't fit it."""


class EmbeddingTable:
    """Embeddings on disk, mapped rather than read."""

    def __init__(self, folder: Path, state: "_State", parts: Sequence[pa.Table]):
        data = pa.concat_tables(parts)
        self.folder = folder
        self._lengths = [part.num_rows for part in parts]
        self.settings = state.settings
        self._state = state
        self._data = data
        self.spaces = read_spaces(data.schema, folder)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a table that `TableWriter` wrote.

        Raises:
            TableError: If there is none in the folder, or one of its files is missing or damaged.
        """
        path = Path(folder).expanduser()
        state = _State.read(path)
        if state is None:
            raise TableError(
                f"{folder} holds no table of embeddings (no {_STATE_FILE}). Give the folder that "
                "an extraction wrote."
            )
        parts = [_map(file)[0] for file in state.files]
        return cls(path, state, parts)

    def __len__(self) -> int:
        return self._data.num_rows

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}: {space}" for name, space in self.spaces.items())
        return f"EmbeddingTable({str(self.folder)!r}, {len(self)} rows, {columns})"

    @property
    def ids(self) -> list[str]:
        """The rows' ids, in order."""
        return self._data["id"].to_pylist()

    @property
    def sources(self) -> list[str]:
        """The names of the columns that say what a row came from."""
        return [name for name in self._data.column_names if name not in ("id", *self.spaces)]

    def source(self, column: str) -> list[Any]:
        """Give one of the columns that say what a row came from.

        Raises:
            TableError: If there is no such column.
        """
        if column not in self.sources:
            raise TableError(f"Expected one of {', '.join(self.sources)}, got {column!r}.")
        return self._data[column].to_pylist()

    def tensor(self, column: str) -> Tensor:
        """Give the embeddings of one space, shape (n, d), in the dtype of the file.

        The tensor shares the memory of the mapped file where the column lies in one file, so it
        costs no memory until it is read. Writing to it changes neither the file nor any other
        tensor of this table.

        Args:
            column: One of `spaces`, such as "clip_image".

        Raises:
            TableError: If there is no such column.
        """
        space = self._space(column)
        parts = []
        for file in self._state.files:
            data, memory = _map(file)
            dtype = _TORCH_DTYPES[_dtype_of(data.schema, column)]
            for offset, count in _places(data, memory, column):
                flat = torch.frombuffer(memory, dtype=dtype, count=count, offset=offset)
                parts.append(flat.view(-1, space.dim))
        if len(parts) == 1:
            return parts[0]
        empty = torch.empty(0, space.dim, dtype=_TORCH_DTYPES[_dtype_of(self._data.schema, column)])
        return torch.cat(parts) if parts else empty

    def chunks(self, *columns: str, rows: int = 65_536) -> Iterator[tuple[Tensor, ...]]:
        """Give the embeddings of some spaces piece by piece, so that a table of any size goes.

        Args:
            *columns: Some of `spaces`.
            rows: Rows in a piece; the last may have fewer.

        Yields:
            For each column a tensor, shape (rows, d), in the dtype of the file.

        Raises:
            TableError: If there is no such column.
        """
        dims = {column: self._space(column).dim for column in columns}
        for start in range(0, len(self), rows):
            piece = self._data.slice(start, rows)
            yield tuple(
                torch.cat(
                    [
                        torch.tensor(part.flatten().to_numpy()).view(-1, dim)
                        for part in piece[column].chunks
                    ]
                )
                for column, dim in dims.items()
            )

    def read(self, column: str, rows: Tensor) -> Tensor:
        """Copy some embeddings of one space out of the files, which stay mapped no longer.

        Unlike pages of `tensor`, which stay in memory once they were looked at, it costs no more
        memory than it gives.

        Args:
            column: One of `spaces`, such as "clip_image".
            rows: Indices in ascending order, shape (m,).

        Returns:
            Shape (m, d), in the dtype of the file.

        Raises:
            TableError: If there is no such column, or no such row.
        """
        space = self._space(column)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < len(self):
            raise TableError(
                f"Expected rows within 0 and {len(self)}, got {int(rows[0])} to {int(rows[-1])}."
            )
        dtype = _TORCH_DTYPES[_dtype_of(self._data.schema, column)]
        values = torch.empty(len(rows), space.dim, dtype=dtype)
        first = done = 0
        for file, length in zip(self._state.files, self._lengths, strict=True):
            end = int(torch.searchsorted(rows, first + length))
            if end > done:
                data, memory = _map(file)
                wanted = rows[done:end] - first
                start = 0
                for offset, count in _places(data, memory, column):
                    part = torch.frombuffer(memory, dtype=dtype, count=count, offset=offset)
                    part = part.view(-1, space.dim)
                    low, high = torch.searchsorted(wanted, torch.tensor([start, start + len(part)]))
                    torch.index_select(
                        part,
                        0,
                        wanted[low:high] - start,
                        out=values[done + int(low) : done + int(high)],
                    )
                    start += len(part)
                done = end
            first += length
        return values

    def to_numpy(self, column: str) -> np.ndarray:
        """Give the embeddings of one space as an array, shape (n, d); like `tensor`."""
        return self.tensor(column).numpy()

    def rows(self, start: int, stop: int) -> pa.Table:
        """Give the rows from `start` up to `stop`, without copying."""
        if not 0 <= start <= stop <= len(self):
            raise TableError(f"Expected rows within 0 and {len(self)}, got {start} to {stop}.")
        return self._data.slice(start, stop - start)

    def described(self, rows: pa.Table, columns: Sequence[str]) -> pa.Table:
        """Write the spaces of these columns into the metadata of rows that lack the vectors."""
        spaces = {column: self._space(column) for column in columns}
        return rows.replace_schema_metadata(_metadata(spaces))

    def failures(self) -> dict[str, str]:
        """Give the reason for every id that could not be embedded."""
        return {
            row_id: reason
            for batch in _read_failures(self._state.failures)
            for row_id, reason in zip(*(c.to_pylist() for c in batch.columns), strict=True)
        }

    def to_parquet(self, path: str | Path) -> None:
        """Export everything but the failures to one Parquet file, with the spaces.

        Raises:
            TableError: If the file can't be written.
        """
        target = Path(path).expanduser()
        with _writing(target.parent, "The table is as it was."), replacing(target) as partial:
            pq.write_table(self._data, partial, compression="zstd")

    @classmethod
    def from_parquet(cls, path: str | Path, folder: str | Path) -> Self:
        """Import a Parquet file that `to_parquet` wrote.

        Args:
            path: The Parquet file.
            folder: Where to write the table.

        Raises:
            TableError: If the file can't be read or says nothing of its spaces.
        """
        try:
            data = pq.ParquetFile(path)
            schema = data.schema_arrow
        except (OSError, pa.ArrowInvalid) as error:
            raise TableError(f"{path} can't be read as Parquet: {one_line(error)}") from error
        spaces = read_spaces(schema, path)
        dtype = _dtype_of(schema, next(iter(spaces)))
        with TableWriter(folder, spaces, dtype=dtype) as writer:
            for batch in data.iter_batches():
                rows = pa.Table.from_batches([batch], schema)
                writer._append_table(rows, rows["id"].to_pylist(), {})
        return cls.open(folder)

    def _space(self, column: str) -> EmbeddingSpace:
        if column not in self.spaces:
            raise TableError(
                f"{self.folder} has no embeddings {column!r}, only {', '.join(self.spaces)}."
            )
        return self.spaces[column]


class TableWriter:
    """Write a table in order; opened on one that a killed run left, it goes on where that stopped.

    Example:
        >>> with TableWriter(folder, {"clip_text": clip.space("text")}) as writer:
        ...     todo = [row for row in rows if row.id not in writer]
        ...     writer.append(ids, {"caption": captions}, {"clip_text": clip.encode_text(captions)})
    """

    def __init__(
        self,
        folder: str | Path,
        spaces: Mapping[str, EmbeddingSpace],
        *,
        dtype: Dtype = "float16",
        rows_per_shard: int = 4096,
        settings: Mapping[str, Any] | None = None,
    ):
        """Open a folder for writing.

        Args:
            folder: Where the table is, or is to be.
            spaces: The space of every column of embeddings; a column's name begins with the
                space's family and modality, such as "clip_text".
            dtype: Of the stored embeddings.
            rows_per_shard: Rows after which what was appended is written; a killed run loses
                fewer than these. Shards are put together when the table is closed: with as many
                rows as fit in memory, a table made at once is written once.
            settings: What the rows are made from, as plain values by name; kept with the table,
                which can then be continued with the same only.

        Raises:
            TableError: If the folder holds something else, can't be written to, another run is
                writing to it, or its table was made with other settings.
            SpaceMismatchError: If the folder holds a table of other spaces.
        """
        if dtype not in get_args(Dtype):
            raise UserError(f"Expected dtype float16 or float32, got {dtype!r}.")
        if rows_per_shard < 1:
            raise UserError(f"Expected rows_per_shard of at least 1, got {rows_per_shard}.")
        for column, space in spaces.items():
            prefix = f"{space.family}_{space.modality}"
            if not column.startswith(prefix):
                raise TableError(f"A column of {space} begins with {prefix!r}, got {column!r}.")
        if not spaces:
            raise TableError("Expected at least one space to write embeddings of, got none.")
        self.folder = Path(folder).expanduser()
        self.spaces = dict(spaces)
        self.dtype: Dtype = dtype
        self._rows_per_shard = rows_per_shard
        # As they come back from the file: tuples as lists.
        self._settings = None if settings is None else json.loads(json.dumps(settings))
        self._pending: list[tuple[pa.Table | None, dict[str, str]]] = []
        self._pending_rows = 0
        # Unknown until the first rows bring the columns of what they came from.
        self._schema: pa.Schema | None = None
        self._has_rows = False
        self._ids = _IdSet()
        with _writing(self.folder, "Nothing was written."):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.folder / _LOCK_FILE, timeout=0)
            try:
                self._lock.acquire()
            except filelock.Timeout as error:
                raise TableError(
                    f"Another run is writing to {folder}. Wait for it, or give another folder."
                ) from error
        try:
            self._resume()
        except BaseException:
            self._lock.release()
            raise

    def _resume(self) -> None:
        state = _State.read(self.folder)
        if state is None:
            others = [p.name for p in self.folder.iterdir() if not _is_ours(p.name)]
            if others:
                raise TableError(
                    f"{self.folder} holds something else ({others[0]}). Give an empty folder or "
                    "one that a table was written to."
                )
            self._state = _State([], [], self._settings)
            self._sweep()
            return
        self._check_settings(state.settings)
        self._state = state
        self._resume_rows()
        self._sweep()

    def _check_settings(self, before: dict[str, Any] | None) -> None:
        now = self._settings
        if now is None:
            self._settings = before
            return
        if before == now:
            return
        if before is None:
            raise TableError(
                f"{self.folder} holds a table of unknown origin, which can't be continued. Give "
                "another folder."
            )
        changed = [
            f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        raise TableError(
            f"{self.folder} holds a table made with other settings: {'; '.join(changed)}. Go on "
            "with the same, or give another folder."
        )

    def _sweep(self) -> None:
        """Remove what an interrupted run left half done."""
        named = {*self._state.files, *(file for file, _ in self._state.failures)}
        for pattern in ("data-*", "failures-*", ".*.part"):
            for file in self.folder.glob(pattern):
                if file not in named:
                    file.unlink()

    def _resume_rows(self) -> None:
        table = EmbeddingTable.open(self.folder)
        if set(table.spaces) != set(self.spaces):
            raise TableError(
                f"{self.folder} holds embeddings of {', '.join(table.spaces)}, not "
                f"{', '.join(self.spaces)}. Give another folder."
            )
        for column, space in table.spaces.items():
            require_same_model(space, self.spaces[column], what=f"{column} in {self.folder}")
            dtype = _dtype_of(table._data.schema, column)
            if dtype != self.dtype:
                raise TableError(
                    f"{self.folder} holds {dtype}; open it with dtype={dtype!r} or give another "
                    "folder."
                )
        self.spaces = table.spaces
        for ids in table._data["id"].chunks:
            self._ids.add(ids.to_pylist())
        for batch in _read_failures(self._state.failures):
            self._ids.add(batch["id"].to_pylist())
        if len(table):
            self._has_rows = True
            self._schema = table._data.schema

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            # The reason why this ends is told, not that its last rows could not be kept either.
            stack.enter_context(contextlib.suppress(TableError))
            self.flush()

    def __len__(self) -> int:
        """Rows and failures, with those that still wait in memory."""
        return len(self._ids)

    @property
    def failed(self) -> int:
        """How many of them are failures."""
        waiting = sum(len(failures) for _, failures in self._pending)
        return waiting + sum(count for _, count in self._state.failures)

    def __contains__(self, row_id: object) -> bool:
        """Tell whether an id needs no more work: its row is there, or it failed."""
        return isinstance(row_id, str) and self.known([row_id])[0]

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Tell for each id whether it is `in` the writer, many at once."""
        return self._ids.known(ids).tolist()

    def append(
        self,
        ids: Sequence[str],
        sources: Mapping[str, Sequence[Any]],
        embeds: Mapping[str, Tensor],
        *,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Add rows.

        Args:
            ids: A name for every row, each new to the table.
            sources: What the rows came from, by column: captions, files, URLs, splits. Every call
                gives the same columns.
            embeds: Embeddings by column, each of shape (n, d); unit norm where the space says so.
            failures: Reasons by id for rows that can't be had; they are kept in the same step as
                the rows, or neither is.

        Raises:
            TableError: If the numbers of rows, the columns, the shapes or the norms don't fit, an
                id is there already, an embedding holds NaN, or there is no room on the disk.
        """
        if set(embeds) != set(self.spaces):
            raise TableError(
                f"Expected embeddings of {', '.join(self.spaces)}, got {', '.join(embeds)}."
            )
        arrays: dict[str, pa.Array] = {"id": _id_array(ids)}
        for name, values in sources.items():
            if name == "id" or name in self.spaces:
                raise TableError(f"A source can't be named {name!r}: that column is taken.")
            if len(values) != len(ids):
                raise TableError(f"Expected {len(ids)} values of {name!r}, got {len(values)}.")
            arrays[name] = self._source_array(name, values)
        for column, space in self.spaces.items():
            vectors = _checked(embeds[column], len(ids), column, space)
            flat = vectors.to(_TORCH_DTYPES[self.dtype]).reshape(-1).numpy()
            arrays[column] = pa.FixedSizeListArray.from_arrays(
                pa.array(flat, _ARROW_DTYPES[self.dtype]), space.dim
            )
        self._append_table(pa.table(arrays), list(ids), failures or {})

    def fail(self, row_id: str, reason: str) -> None:
        """Record that a row can't be had; it stands in `failures.parquet`.

        Raises:
            TableError: If the id is in the table or has failed already.
        """
        _id_array([row_id])
        self._append_table(None, [], {row_id: reason})

    def _source_array(self, name: str, values: Sequence[Any]) -> pa.Array:
        known = None
        if self._schema is not None and name in self._schema.names:
            known = self._schema.field(name).type
        try:
            array = pa.array(list(values), type=known)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise TableError(f"The values of {name!r} don't fit: {one_line(error)}") from error
        # A first batch without any value says nothing about the type; texts are the likeliest.
        return array.cast(pa.string()) if pa.types.is_null(array.type) else array

    def _append_table(
        self, rows: pa.Table | None, ids: list[str], failures: Mapping[str, str]
    ) -> None:
        if rows is not None and rows.num_rows:
            schema = self._schema or rows.schema.with_metadata(_metadata(self.spaces))
            if rows.column_names != schema.names:
                raise TableError(
                    f"Expected the columns {', '.join(schema.names)}, got "
                    f"{', '.join(rows.column_names)}."
                )
            rows = rows.cast(schema)
            self._schema = schema
        else:
            rows = None
        self._ids.add([*ids, *failures])
        reasons = {row_id: _written(reason) for row_id, reason in failures.items()}
        self._pending.append((rows, reasons))
        self._pending_rows += len(ids) + len(failures)
        if self._pending_rows >= self._rows_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write what was appended; from here on it survives the end of the process.

        Raises:
            TableError: If there is no room for it. What was written before is safe.
        """
        if not self._pending and self._state.files:
            return
        rows = [part for part, _ in self._pending if part is not None]
        failures = {i: reason for _, failed in self._pending for i, reason in failed.items()}
        written = len(self._ids) - self._pending_rows
        with _writing(self.folder, f"The {written} rows before are safe: start again."):
            files = list(self._state.files)
            if rows:
                # A file without rows lacks the columns that the first rows bring.
                files = [*(files if self._has_rows else []), self._write(lambda: rows)]
            if not files:
                files = [self._new_file("data", ".arrow")]
                with _replacing(files[0]) as temporary:
                    _write_stream(self._empty(), temporary)
            failed = list(self._state.failures)
            if failures:
                failed.append((self._write_failures(failures), len(failures)))
            self._commit(_State(files, failed, self._settings))
        self._has_rows = self._has_rows or bool(rows)
        self._pending = []
        self._pending_rows = 0

    def close(self) -> None:
        """Write what was appended and put the shards together into one file, or few large ones.

        Raises:
            TableError: If there is no room for what was appended.
        """
        try:
            self.flush()
            # Where there is no room for a copy the shards stay as they are: a table all the same.
            with contextlib.suppress(TableError), _writing(self.folder, ""):
                self._compact()
            self._sweep()
        finally:
            self._lock.release()

    def _compact(self) -> None:
        groups: list[list[Path]] = []
        size = 0
        for file in self._state.files:
            bytes_ = file.stat().st_size
            if not groups or size + bytes_ > _FILE_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(file)
            size += bytes_
        failures = self._state.failures
        if failures and [file.name for file, _ in failures] != [_FAILURES_FILE]:
            # Its first rows are those it had: with the state of before it reads as before.
            with _replacing(self.folder / _FAILURES_FILE) as temporary:
                target = pq.ParquetWriter(temporary, _FAILURES_SCHEMA)
                with target:
                    for batch in _read_failures(failures):
                        target.write_batch(batch)
            failures = [(self.folder / _FAILURES_FILE, sum(count for _, count in failures))]
        if failures != self._state.failures or any(len(group) > 1 for group in groups):
            files = [
                self._write(partial(map, _read, group)) if len(group) > 1 else group[0]
                for group in groups
            ]
            self._commit(_State(files, failures, self._settings))

    def _empty(self) -> pa.Table:
        columns = {"id": pa.array([], pa.string())}
        for column, space in self.spaces.items():
            columns[column] = pa.array([], pa.list_(_ARROW_DTYPES[self.dtype], space.dim))
        return pa.table(columns).replace_schema_metadata(_metadata(self.spaces))

    def _new_file(self, stem: str, suffix: str) -> Path:
        files = self.folder.glob(f"{stem}-*{suffix}")
        numbers = [int(file.stem.split("-")[1]) for file in files]
        return self.folder / f"{stem}-{max(numbers, default=-1) + 1:06d}{suffix}"

    def _write(self, parts: Callable[[], Iterable[pa.Table]]) -> Path:
        """Put rows into one file, as one batch: a column of it is then one piece of memory.

        Nothing but one of the parts is held beside what is smaller than the embeddings: the file is
        written with holes for these, and then they are copied to their places, part by part.
        """
        path = self._new_file("data", ".arrow")
        with _replacing(path) as temporary:
            placeholder = self._without_embeds(parts())
            values = [placeholder[name].chunk(0).flatten().buffers()[1] for name in self.spaces]
            _write_stream(placeholder, temporary, holes={buffer.address for buffer in values})
            data, memory = _map(temporary)
            offsets = {name: next(_places(data, memory, name))[0] for name in self.spaces}
            del data, memory
            with temporary.open("r+b") as file:
                for part in parts():
                    for column in self.spaces:
                        file.seek(offsets[column])
                        for chunk in part[column].chunks:
                            offsets[column] += file.write(chunk.flatten().to_numpy().data)
        return path

    def _without_embeds(self, parts: Iterable[pa.Table]) -> pa.Table:
        """Put parts together in memory, with zeros for their embeddings.

        Memory of zeros that is never touched is never taken.
        """
        assert self._schema is not None
        chunks: dict[str, list[pa.Array]] = {
            name: [] for name in self._schema.names if name not in self.spaces
        }
        rows = 0
        for part in parts:
            rows += len(part)
            for name, found in chunks.items():
                # Copied: a slice would hold the memory of the whole part.
                found += [c.take(pa.array(np.arange(len(c)))) for c in part[name].chunks]
        arrays = []
        for field in self._schema:
            if field.name in chunks:
                arrays.append(pa.concat_arrays(chunks.pop(field.name)))
            else:
                zeros = pa.array(np.zeros(rows * field.type.list_size, self.dtype))
                arrays.append(pa.FixedSizeListArray.from_arrays(zeros, field.type.list_size))
        return pa.table(arrays, schema=self._schema)

    def _write_failures(self, failures: Mapping[str, str]) -> Path:
        path = self._new_file("failures", ".parquet")
        columns = [list(failures), list(failures.values())]
        with _replacing(path) as temporary:
            pq.write_table(pa.table(columns, schema=_FAILURES_SCHEMA), temporary)
        return path

    def _commit(self, state: "_State") -> None:
        """Make these files the table."""
        import datasets

        schema = _map(state.files[0])[0].schema.remove_metadata()
        features = datasets.Features.from_arrow_schema(schema).to_dict()
        info = {"citation": "", "description": "", "features": features}
        _write_json(self.folder / _INFO_FILE, {**info, "homepage": "", "license": ""})
        _write_json(self.folder / _STATE_FILE, state.to_json(rows=len(self._ids)))
        self._state = state


def concatenate(
    tables: Sequence[EmbeddingTable], folder: str | Path, *, rows_per_shard: int = 65_536
) -> EmbeddingTable:
    """Put the rows of several tables into one, after checking that they belong together.

    Args:
        tables: Tables with the same columns, of the same spaces.
        folder: Where to write; anything but a table or an empty folder is refused.
        rows_per_shard: Rows to hold in memory.

    Returns:
        The new table, rows in the order given, with everyone's failures.

    Raises:
        SpaceMismatchError: If the embeddings of a column come from different models.
        TableError: If the columns or dtypes differ, or an id is in two tables.
    """
    if not tables:
        raise TableError("Expected at least one table to concatenate, got none.")
    first = tables[0]
    columns = first._data.column_names
    dtype = _dtype_of(first._data.schema, next(iter(first.spaces)))
    for table in tables[1:]:
        if table._data.column_names != columns:
            raise TableError(
                f"{table.folder} has the columns {', '.join(table._data.column_names)}, "
                f"{first.folder} has {', '.join(columns)}: they can't be concatenated."
            )
        for column, space in first.spaces.items():
            what = f"{column} of {table.folder} joined to {first.folder}"
            require_same_model(space, table.spaces[column], what=what)
            if (got := _dtype_of(table._data.schema, column)) != dtype:
                raise TableError(f"{table.folder} holds {got}, {first.folder} holds {dtype}.")
    with TableWriter(folder, first.spaces, dtype=dtype) as writer:
        for table in tables:
            for start in range(0, len(table), rows_per_shard):
                rows = table.rows(start, min(start + rows_per_shard, len(table)))
                writer._append_table(rows, rows["id"].to_pylist(), {})
        for table in tables:
            for row_id, reason in table.failures().items():
                if row_id not in writer:
                    writer.fail(row_id, reason)
    return EmbeddingTable.open(folder)


class _IdSet:
    """Ids, known by 8 bytes each: sorted runs of hashes, of which no two are of like size.

    Two of 5 million ids share a hash with a probability of one in a million. Most new ids are told
    by the first bits of their hash alone.
    """

    _FIRST_BITS = 24

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        self._taken = np.zeros(1 << self._FIRST_BITS, bool)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, ids: Sequence[str]) -> None:
        """Add ids.

        Raises:
            TableError: If one of them is there already, or twice among them; none is added.
        """
        if not ids:
            return
        hashes = np.sort(_hashes(ids))
        if self._holds(hashes).any() or (hashes[1:] == hashes[:-1]).any():
            twice = self.known(ids)
            example = ids[int(twice.argmax())] if twice.any() else _first_repeated(ids)
            raise TableError(
                f"The id {example!r} is in the table already. Leave out every id that is `in` the "
                "writer, and give every row an id of its own."
            )
        self._taken[self._first_bits(hashes)] = True
        self._runs.append(hashes)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]), kind="stable")

    def known(self, ids: Sequence[str]) -> np.ndarray:
        """Tell for each id whether it is there, shape (n,)."""
        return self._holds(_hashes(ids))

    def _holds(self, hashes: np.ndarray) -> np.ndarray:
        known = self._taken[self._first_bits(hashes)]
        searched = hashes[known]
        found = np.zeros(len(searched), bool)
        for run in self._runs:
            places = run.searchsorted(searched).clip(max=len(run) - 1)
            found |= run[places] == searched
        known[known] = found
        return known

    def _first_bits(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes >> (64 - self._FIRST_BITS)) & ((1 << self._FIRST_BITS) - 1)


def _hashes(ids: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _first_repeated(ids: Sequence[str]) -> str:
    seen: set[str] = set()
    return next(i for i in ids if i in seen or seen.add(i))


def _id_array(ids: Sequence[str]) -> pa.Array:
    try:
        array = pa.array(ids, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise TableError("Expected ids as texts; use str(id).") from error
    if array.null_count:
        raise TableError("Expected ids as texts, got None; use str(id).")
    return array


def _checked(embeds: Tensor, rows: int, column: str, space: EmbeddingSpace) -> Tensor:
    if not isinstance(embeds, Tensor) or tuple(embeds.shape) != (rows, space.dim):
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TableError(f"Expected {column} of shape ({rows}, {space.dim}), got {got}.")
    embeds = embeds.detach().cpu()
    for part in embeds.split(_CHECKED_ROWS):
        norms = part.float().norm(dim=1)
        # A sum of squares is finite only if every value is.
        if not torch.isfinite(norms).all():
            raise TableError(f"An embedding of {column} holds NaN or infinity.")
        if space.unit_norm and len(norms) and (norms - 1).abs().max() > _NORM_TOLERANCE:
            worst = norms[(norms - 1).abs().argmax()].item()
            raise TableError(
                f"{column} should be unit norm, as its space says; got a vector of norm "
                f"{worst:.3g}. Embed with ClipEncoder or ClapEncoder, or say unit_norm=False in "
                "the space."
            )
    return embeds


@dataclass
class _State:
    """What state.json says: the files that count, in order, and what they were made from."""

    files: list[Path]
    failures: list[tuple[Path, int]]
    """Files of failures with the number of their rows that count."""

    settings: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> "_State | None":
        """Read a folder's state; None if there is no table."""
        path = folder / _STATE_FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            names = [entry["filename"] for entry in values["_data_files"]]
            ours = values.get(_OUR_STATE, {"failures": [], "settings": None})
            failures = [(entry["filename"], int(entry["rows"])) for entry in ours["failures"]]
            return cls(
                [folder / Path(name).name for name in names],
                [(folder / Path(name).name, rows) for name, rows in failures],
                ours["settings"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TableError(f"{path} is damaged ({one_line(error)}).") from error

    def to_json(self, *, rows: int) -> dict[str, Any]:
        names = [file.name for file in self.files]
        return {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": hashlib.sha256(f"{names}{rows}".encode()).hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
            _OUR_STATE: {
                "failures": [{"filename": file.name, "rows": n} for file, n in self.failures],
                "settings": self.settings,
            },
        }


def _is_ours(name: str) -> bool:
    return name.startswith((_LOCK_FILE, _STATE_FILE, _INFO_FILE, "data-", "failures")) or (
        name.startswith(".") and name.endswith(".part")
    )


def _metadata(spaces: Mapping[str, EmbeddingSpace]) -> dict[bytes, bytes]:
    values = {column: space.to_dict() for column, space in spaces.items()}
    return {_METADATA_KEY: json.dumps(values).encode()}


def read_spaces(schema: pa.Schema, where: str | Path) -> dict[str, EmbeddingSpace]:
    """Read the spaces of a table's columns from its schema's metadata.

    Raises:
        TableError: If it holds none.
    """
    try:
        values = json.loads((schema.metadata or {})[_METADATA_KEY])
        return {column: EmbeddingSpace.from_dict(space) for column, space in values.items()}
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise TableError(
            f"{where} does not say which models its embeddings come from: it was not written by "
            "clip2clap. Append its vectors to a TableWriter that is given their spaces."
        ) from error


def _dtype_of(schema: pa.Schema, column: str) -> Dtype:
    return "float16" if schema.field(column).type.value_type == pa.float16() else "float32"


def _map(file: Path) -> tuple[pa.Table, mmap.mmap]:
    """Map an Arrow file privately: what is written to the memory stays in this process."""
    try:
        with file.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return pa.ipc.open_stream(pa.py_buffer(memory)).read_all(), memory
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise TableError(
            f"{file} is missing or damaged ({one_line(error)}). Extract the table again."
        ) from error


def _read(file: Path) -> pa.Table:
    """Read an Arrow file into memory that goes with the table, unlike mapped pages."""
    with pa.OSFile(str(file), "rb") as source:
        return pa.ipc.open_stream(source).read_all()


def _places(data: pa.Table, memory: mmap.mmap, column: str) -> Iterator[tuple[int, int]]:
    """Say where in a mapped file a column's values lie: offset in bytes, number of values."""
    if not len(data):
        return
    start = pa.py_buffer(memory).address
    for chunk in data[column].chunks:
        values = chunk.flatten()
        width = values.type.bit_width // 8
        yield values.buffers()[1].address - start + values.offset * width, len(values)


class _Sink(io.RawIOBase):
    """A file that is written but for some buffers, which stay holes of their size."""

    def __init__(self, file: BinaryIO, holes: Set[int]):
        self._file = file
        self._holes = holes

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if isinstance(data, pa.Buffer) and data.address in self._holes:
            self._file.seek(data.size, os.SEEK_CUR)
            return data.size
        return self._file.write(data)


def _write_stream(data: pa.Table, path: Path, *, holes: Set[int] = frozenset()) -> None:
    """Write an Arrow stream; of buffers at the addresses `holes` only their place is made."""
    with (
        path.open("wb") as file,
        pa.PythonFile(_Sink(file, holes), "w") as sink,
        pa.ipc.new_stream(sink, data.schema) as stream,
    ):
        stream.write_table(data)


def _read_failures(files: Iterable[tuple[Path, int]]) -> Iterator[pa.RecordBatch]:
    for path, rows in files:
        try:
            for batch in pq.ParquetFile(path).iter_batches():
                yield batch.slice(0, rows)
                rows -= min(rows, len(batch))
        except (OSError, pa.ArrowInvalid) as error:
            raise TableError(f"{path} is missing or damaged ({one_line(error)}).") from error


@contextlib.contextmanager
def _writing(folder: Path, reassurance: str) -> Iterator[None]:
    """Say in one line what keeps a folder from being written to."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise TableError(
                f"There is no room left to write to {folder}. Make some. {reassurance}".rstrip()
            ) from error
        reason = error.strerror or one_line(error)
        raise TableError(
            f"{folder} can't be written to: {reason}. {reassurance}".rstrip()
        ) from error


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, which takes the place of `path` once all is on disk."""
    with replacing(path) as temporary:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _written(reason: str) -> str:
    """Put a reason into a line that any file can hold; names of files may be no UTF-8."""
    return one_line(reason, limit=None).encode("utf-8", "backslashreplace").decode()
