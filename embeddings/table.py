"""The table that stores embeddings: a folder of Arrow files that `datasets` opens too.

A folder holds `data-*.arrow` (Arrow streams, one fixed-size list of float16 or float32 per space,
the spaces in the schema's metadata), `state.json` and `dataset_info.json` (what
`datasets.load_from_disk` reads), and `failures.parquet` if there were any. `state.json` names the
files that count and is replaced last, in one step: a run that was killed has written all of a
batch of rows or none of it.
"""

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clip2clap.embeddings.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model

Dtype = Literal["float16", "float32"]

_STATE_FILE = "state.json"
_INFO_FILE = "dataset_info.json"
_FAILURES_FILE = "failures.parquet"
_LOCK_FILE = ".lock"
_METADATA_KEY = b"clip2clap.spaces"
_FAILURES_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string())])
_ARROW_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32}
# A closed table is put together into files of this size: few enough to map, and a column of a
# file is one piece of memory, which a tensor can share.
_FILE_BYTES = 2**30
# Unit-norm vectors in half precision are off by less than this.
_NORM_TOLERANCE = 1e-2


class TableError(UserError):
    """A table that can't be read, or rows that don't fit it."""


class EmbeddingTable:
    """Embeddings on disk, mapped rather than read."""

    def __init__(self, folder: Path, files: Sequence[Path], data: pa.Table):
        self.folder = folder
        self._files = files
        self._data = data
        self.spaces = _read_spaces(data.schema, folder)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a table that `TableWriter` wrote.

        Raises:
            TableError: If there is none in the folder, or one of its files is missing or damaged.
        """
        path = Path(folder).expanduser()
        files = _data_files(path)
        if files is None:
            raise TableError(
                f"{folder} holds no table of embeddings (no {_STATE_FILE}). Give the folder that "
                "an extraction wrote."
            )
        parts = [_map(file)[0] for file in files]
        return cls(path, files, pa.concat_tables(parts))

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
        for file in self._files:
            data, memory = _map(file)
            start = pa.py_buffer(memory).address if len(data) else 0
            for chunk in data[column].chunks:
                values = chunk.flatten()
                dtype = _TORCH_DTYPES[_dtype_of(data.schema, column)]
                offset = values.buffers()[1].address - start + values.offset * dtype.itemsize
                flat = torch.frombuffer(memory, dtype=dtype, count=len(values), offset=offset)
                parts.append(flat.view(-1, space.dim))
        if len(parts) == 1:
            return parts[0]
        empty = torch.empty(0, space.dim, dtype=_TORCH_DTYPES[_dtype_of(self._data.schema, column)])
        return torch.cat(parts) if parts else empty

    def to_numpy(self, column: str) -> np.ndarray:
        """Give the embeddings of one space as an array, shape (n, d); like `tensor`."""
        return self.tensor(column).numpy()

    def rows(self, start: int, stop: int) -> pa.Table:
        """Give the rows from `start` up to `stop`, without copying."""
        if not 0 <= start <= stop <= len(self):
            raise TableError(f"Expected rows within 0 and {len(self)}, got {start} to {stop}.")
        return self._data.slice(start, stop - start)

    def failures(self) -> dict[str, str]:
        """Give the reason for every id that could not be embedded."""
        return _read_failures(self.folder)

    def to_parquet(self, path: str | Path) -> None:
        """Export everything but the failures to one Parquet file, with the spaces."""
        pq.write_table(self._data, path, compression="zstd")

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
            raise TableError(f"{path} can't be read as Parquet: {_line(error)}") from error
        spaces = _read_spaces(schema, path)
        dtype = _dtype_of(schema, next(iter(spaces)))
        with TableWriter(folder, spaces, dtype=dtype) as writer:
            for batch in data.iter_batches():
                writer._append_table(pa.Table.from_batches([batch], schema))
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
        ...     todo = [row for row in rows if row.id not in writer.done_ids]
        ...     writer.append(ids, {"caption": captions}, {"clip_text": clip.texts(captions)})
    """

    def __init__(
        self,
        folder: str | Path,
        spaces: Mapping[str, EmbeddingSpace],
        *,
        dtype: Dtype = "float16",
        rows_per_shard: int = 4096,
    ):
        """Open a folder for writing.

        Args:
            folder: Where the table is, or is to be.
            spaces: The space of every column of embeddings; a column's name begins with the
                space's family and modality, such as "clip_text".
            dtype: Of the stored embeddings.
            rows_per_shard: Rows after which what was appended is written; a killed run loses
                fewer than these.

        Raises:
            TableError: If the folder holds something else, or another run is writing to it.
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
        self._buffer: list[pa.Table] = []
        self._schema: pa.Schema | None = None
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
        files = _data_files(self.folder)
        if files is None:
            others = [p.name for p in self.folder.iterdir() if not _is_ours(p.name)]
            if others:
                raise TableError(
                    f"{self.folder} holds something else ({others[0]}). Give an empty folder or "
                    "one that a table was written to."
                )
            files = []
        self._files = files
        self._failures = _read_failures(self.folder)
        self._ids: set[str] = set()
        self._sweep()
        if files:
            self._resume_rows()

    def _sweep(self) -> None:
        """Remove what an interrupted run left half done."""
        for file in self.folder.glob("data-*"):
            if file not in self._files:
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
        self._ids = set(table.ids)
        if len(table):
            self._schema = table._data.schema
        else:
            # Nobody knew the columns yet: the first rows bring them.
            self._files = []

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
        else:
            with contextlib.ExitStack() as stack:
                stack.callback(self._lock.release)
                self.flush()

    @property
    def rows_written(self) -> int:
        """Rows in the table, with those that still wait in memory."""
        return len(self._ids)

    @property
    def done_ids(self) -> set[str]:
        """Ids that need no more work: the rows' and those that failed."""
        return self._ids | self._failures.keys()

    def append(
        self,
        ids: Sequence[str],
        sources: Mapping[str, Sequence[Any]],
        embeds: Mapping[str, Tensor],
    ) -> None:
        """Add rows.

        Args:
            ids: A name for every row, each new to the table.
            sources: What the rows came from, by column: captions, files, URLs, splits. Every call
                gives the same columns.
            embeds: Embeddings by column, each of shape (n, d); unit norm where the space says so.

        Raises:
            TableError: If the numbers of rows, the columns, the shapes or the norms don't fit, an
                id is there already, or an embedding holds NaN.
        """
        self._check_ids(ids)
        if set(embeds) != set(self.spaces):
            raise TableError(
                f"Expected embeddings of {', '.join(self.spaces)}, got {', '.join(embeds)}."
            )
        arrays: dict[str, pa.Array] = {"id": pa.array(list(ids), pa.string())}
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
        self._append_table(pa.table(arrays))

    def _check_ids(self, ids: Sequence[str]) -> None:
        if any(not isinstance(row_id, str) for row_id in ids):
            raise TableError("Expected ids as texts; use str(id).")
        twice = self._ids.intersection(ids)
        if twice or len(set(ids)) != len(ids):
            example = next(iter(twice), None) or next(i for i in ids if list(ids).count(i) > 1)
            raise TableError(
                f"The id {example!r} is in the table already. Leave out what is in `done_ids`, and "
                "give every row an id of its own."
            )

    def _source_array(self, name: str, values: Sequence[Any]) -> pa.Array:
        known = None
        if self._schema is not None and name in self._schema.names:
            known = self._schema.field(name).type
        try:
            array = pa.array(list(values), type=known)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise TableError(f"The values of {name!r} don't fit: {_line(error)}") from error
        # A first batch without any value says nothing about the type; texts are the likeliest.
        return array.cast(pa.string()) if pa.types.is_null(array.type) else array

    def _append_table(self, rows: pa.Table) -> None:
        schema = self._schema or rows.schema.with_metadata(_metadata(self.spaces))
        if rows.column_names != schema.names:
            raise TableError(
                f"Expected the columns {', '.join(schema.names)}, got "
                f"{', '.join(rows.column_names)}."
            )
        self._schema = schema
        self._buffer.append(rows.cast(schema))
        ids = rows["id"].to_pylist()
        self._ids.update(ids)
        for row_id in ids:
            self._failures.pop(row_id, None)
        if sum(len(part) for part in self._buffer) >= self._rows_per_shard:
            self.flush()

    def fail(self, row_id: str, reason: str) -> None:
        """Record that a row can't be had; it stands in `failures.parquet`.

        Raises:
            TableError: If the row is in the table.
        """
        if row_id in self._ids:
            raise TableError(f"{row_id!r} is in the table; it can't have failed.")
        self._failures[row_id] = " ".join(str(reason).split())

    def flush(self) -> None:
        """Write what was appended; from here on it survives the end of the process."""
        if self._buffer:
            self._files = [*self._files, self._write(pa.concat_tables(self._buffer))]
        if self._failures or (self.folder / _FAILURES_FILE).exists():
            columns = [list(self._failures), list(self._failures.values())]
            failures = pa.table(columns, schema=_FAILURES_SCHEMA)
            with _replacing(self.folder / _FAILURES_FILE) as path:
                pq.write_table(failures, path)
        if self._files:
            self._commit(self._files)
        self._buffer = []

    def close(self) -> None:
        """Write what was appended and put the shards together into one file, or few large ones."""
        try:
            self.flush()
            if not self._files:
                self._files = [self._write(self._empty())]
                self._commit(self._files)
            if len(self._files) > 1:
                self._compact()
            self._sweep()
        finally:
            self._lock.release()

    def _compact(self) -> None:
        data = EmbeddingTable.open(self.folder)._data
        rows = max(1, _FILE_BYTES // max(1, data.nbytes // max(1, len(data))))
        if len(self._files) <= -(-len(data) // rows):
            return
        files = [self._write(data.slice(start, rows)) for start in range(0, len(data), rows)]
        self._commit(files)
        self._files = files

    def _empty(self) -> pa.Table:
        columns = {"id": pa.array([], pa.string())}
        for column, space in self.spaces.items():
            columns[column] = pa.array([], pa.list_(_ARROW_DTYPES[self.dtype], space.dim))
        return pa.table(columns).replace_schema_metadata(_metadata(self.spaces))

    def _write(self, data: pa.Table) -> Path:
        numbers = [int(f.stem.split("-")[1]) for f in self.folder.glob("data-*.arrow")]
        path = self.folder / f"data-{max(numbers, default=-1) + 1:06d}.arrow"
        with (
            _replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_stream(sink, data.schema) as stream,
        ):
            # In one batch, so that a column of the file is one piece of memory.
            stream.write_table(data.combine_chunks())
        return path

    def _commit(self, files: Sequence[Path]) -> None:
        """Make these files the table."""
        import datasets

        schema = _map(files[0])[0].schema.remove_metadata()
        features = datasets.Features.from_arrow_schema(schema).to_dict()
        info = {"citation": "", "description": "", "features": features}
        _write_json(self.folder / _INFO_FILE, {**info, "homepage": "", "license": ""})
        names = [file.name for file in files]
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": hashlib.sha256(f"{names}{len(self._ids)}".encode()).hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        _write_json(self.folder / _STATE_FILE, state)


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
                writer._check_ids(rows["id"].to_pylist())
                writer._append_table(rows)
        for table in tables:
            for row_id, reason in table.failures().items():
                if row_id not in writer.done_ids:
                    writer.fail(row_id, reason)
    return EmbeddingTable.open(folder)


def _checked(embeds: Tensor, rows: int, column: str, space: EmbeddingSpace) -> Tensor:
    if not isinstance(embeds, Tensor) or tuple(embeds.shape) != (rows, space.dim):
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TableError(f"Expected {column} of shape ({rows}, {space.dim}), got {got}.")
    embeds = embeds.detach().to("cpu", torch.float32)
    if not torch.isfinite(embeds).all():
        raise TableError(f"An embedding of {column} holds NaN or infinity.")
    norms = embeds.norm(dim=1)
    if space.unit_norm and rows and (norms - 1).abs().max() > _NORM_TOLERANCE:
        worst = norms[(norms - 1).abs().argmax()].item()
        raise TableError(
            f"{column} should be unit norm, as its space says; got a vector of norm {worst:.3g}. "
            "Embed with ClipEncoder or ClapEncoder, or say unit_norm=False in the space."
        )
    return embeds


def _is_ours(name: str) -> bool:
    ours = (_LOCK_FILE, _STATE_FILE, _INFO_FILE, _FAILURES_FILE)
    return name.startswith((*ours, "data-"))


def _metadata(spaces: Mapping[str, EmbeddingSpace]) -> dict[bytes, bytes]:
    values = {column: space.to_dict() for column, space in spaces.items()}
    return {_METADATA_KEY: json.dumps(values).encode()}


def _read_spaces(schema: pa.Schema, where: str | Path) -> dict[str, EmbeddingSpace]:
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


def _data_files(folder: Path) -> list[Path] | None:
    """Name the files that count; None if there is no table."""
    state = folder / _STATE_FILE
    if not state.is_file():
        return None
    try:
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        return [folder / Path(entry["filename"]).name for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise TableError(f"{state} is damaged ({_line(error)}).") from error


def _map(file: Path) -> tuple[pa.Table, mmap.mmap]:
    """Map an Arrow file privately: what is written to the memory stays in this process."""
    try:
        with file.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return pa.ipc.open_stream(pa.py_buffer(memory)).read_all(), memory
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise TableError(
            f"{file} is missing or damaged ({_line(error)}). Extract the table again."
        ) from error


def _read_failures(folder: Path) -> dict[str, str]:
    path = folder / _FAILURES_FILE
    if not path.is_file():
        return {}
    try:
        rows = pq.read_table(path, schema=_FAILURES_SCHEMA)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"{path} is damaged ({_line(error)}).") from error
    return dict(zip(rows["id"].to_pylist(), rows["reason"].to_pylist(), strict=True))


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a name to write to, which takes the place of `path` once all is on disk."""
    temporary = path.with_name(f"{path.name}.part")
    yield temporary
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with _replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
