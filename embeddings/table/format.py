"""On-disk format of embedding tables: schema, state, memory mapping and atomic writes.

A table is a folder of `data-*.arrow` (Arrow streams with one fixed-size list of float16 or float32
per embedding column, and the spaces in the schema's metadata), `state.json` and
`dataset_info.json` (read by `datasets.load_from_disk`), and `failures.parquet` if rows failed.
`state.json` names the files that count, with the checksums of the Arrow files, and is replaced
last, in one step: after a killed run each batch of rows and failures is either complete or absent.
"""

import contextlib
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import FULL_DISK_ERRORS, replacing
from clip2clap.embeddings.space import EmbeddingSpace

Dtype = Literal["float16", "float32"]

STATE_FILE = "state.json"
INFO_FILE = "dataset_info.json"
FAILURES_FILE = "failures.parquet"
LOCK_FILE = ".lock"
FAILURES_SCHEMA = pa.schema([("id", pa.string()), ("reason", pa.string())])
ARROW_DTYPES = {"float16": pa.float16(), "float32": pa.float32()}

# Key of clip2clap's own state in state.json, beside what `datasets` reads from it.
_STATE_KEY = "clip2clap"
_SPACES_KEY = b"clip2clap.spaces"
# Files up to this size are compared with their checksums whenever they are opened.
_CHECKED_BYTES = 2**25


class TableError(UserError):
    """Error of a table that cannot be read, or of rows that do not fit it."""


@dataclass
class TableState:
    """Content of `state.json`: the files that count, in order, and the settings of the run."""

    files: list[Path]
    failures: list[tuple[Path, int]]
    """Files of failures, each with its number of valid rows."""

    settings: dict[str, Any] | None
    checksums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the Arrow files by name; tables of older versions have none."""

    @classmethod
    def read(cls, folder: Path) -> "TableState | None":
        """Read a folder's state; None if the folder holds no table."""
        path = folder / STATE_FILE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            names = [entry["filename"] for entry in values["_data_files"]]
            ours = values.get(_STATE_KEY, {"failures": [], "settings": None})
            failures = [(entry["filename"], int(entry["rows"])) for entry in ours["failures"]]
            return cls(
                [folder / Path(name).name for name in names],
                [(folder / Path(name).name, rows) for name, rows in failures],
                None if ours["settings"] is None else dict(ours["settings"]),
                dict(ours.get("checksums", {})),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TableError(f"{path} is damaged ({one_line(error)}).") from error

    def write(self, folder: Path, *, rows: int) -> None:
        """Write `dataset_info.json`, then replace `state.json`: these files are now the table."""
        # `datasets` takes the features that are missing here from the Arrow files.
        _write_json(folder / INFO_FILE, {})
        names = [file.name for file in self.files]
        self.checksums = {
            file.name: self.checksums.get(file.name) or _checksum(file) for file in self.files
        }
        state = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": hashlib.sha256(f"{names}{rows}".encode()).hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
            _STATE_KEY: {
                "failures": [{"filename": file.name, "rows": n} for file, n in self.failures],
                "settings": self.settings,
                "checksums": self.checksums,
            },
        }
        _write_json(folder / STATE_FILE, state)

    def open_file(self, file: Path, *, is_thorough: bool = False) -> pa.Table:
        """Map an Arrow file and check it; a large one's checksum only if thoroughly."""
        expected = self.checksums.get(file.name)
        with explain_damage(file):
            size = file.stat().st_size
            if expected and (is_thorough or size <= _CHECKED_BYTES) and _checksum(file) != expected:
                raise ValueError("its content has changed since it was written")
            data, _ = map_file(file)
            spaces = read_spaces(data.schema, file)
            for column, space in spaces.items():
                kind: Any = data.schema.field(column).type
                is_vector = pa.types.is_fixed_size_list(kind) and kind.list_size == space.dim
                if not is_vector or kind.value_type not in ARROW_DTYPES.values():
                    raise ValueError(f"its {column} does not fit its space")
            if data.schema.field("id").type not in (pa.string(), pa.large_string()):
                raise ValueError("its ids are no strings")
            for name in data.column_names:
                data[name].validate(full=True)
                if name in ("id", *spaces) and data[name].null_count:
                    raise ValueError(f"its {name} has gaps")
        return data


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def explain_damage(file: Path) -> Iterator[None]:
    """Raise an error of a missing or damaged file as a one-line `TableError`."""
    try:
        yield
    except TableError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, pa.ArrowException) as error:
        raise TableError(
            f"{file} is missing or damaged ({one_line(error)}). Extract the table again."
        ) from error


def spaces_metadata(spaces: Mapping[str, EmbeddingSpace]) -> dict[bytes, bytes]:
    """Return the schema metadata that holds the spaces of embedding columns."""
    values = {column: space.to_dict() for column, space in spaces.items()}
    return {_SPACES_KEY: json.dumps(values).encode()}


def read_spaces(schema: pa.Schema, where: str | Path) -> dict[str, EmbeddingSpace]:
    """Read the spaces of embedding columns from a schema's metadata; a `TableError` if none."""
    try:
        values = json.loads((schema.metadata or {})[_SPACES_KEY])
        # Without any column, the look-up of the first one fails.
        return {column: EmbeddingSpace.from_dict(values[column]) for column in values or [""]}
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        raise TableError(
            f"{where} does not say which models its embeddings come from: it was not written by "
            "clip2clap. Append its vectors to a TableWriter that is given their spaces."
        ) from error


def dtype_of(schema: pa.Schema, column: str) -> Dtype:
    """Return the dtype in which an embedding column is stored."""
    return "float16" if schema.field(column).type.value_type == pa.float16() else "float32"


def map_file(file: Path) -> tuple[pa.Table, mmap.mmap]:
    """Map an Arrow file privately: writes to the memory stay in this process."""
    with explain_damage(file):
        with file.open("rb") as stream:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return pa.ipc.open_stream(pa.py_buffer(memory)).read_all(), memory


def read_file(file: Path) -> pa.Table:
    """Read an Arrow file into memory that is freed with the table, unlike mapped pages."""
    with pa.OSFile(str(file), "rb") as source:
        return pa.ipc.open_stream(source).read_all()


def locate(data: pa.Table, memory: mmap.mmap, column: str) -> Iterator[tuple[int, int]]:
    """Yield the chunks of a column in a mapped file: offset in bytes, number of values."""
    if not len(data):
        return
    start = pa.py_buffer(memory).address
    for chunk in data[column].chunks:
        values = chunk.flatten()
        width = values.type.bit_width // 8
        yield values.buffers()[1].address - start + values.offset * width, len(values)


def write_shard(
    path: Path,
    parts: Callable[[], Iterable[pa.Table]],
    schema: pa.Schema,
    columns: Collection[str],
) -> None:
    """Write rows to one file as one batch, so that a column is one contiguous buffer.

    The embedding columns are first written as zeros, which need no memory, and then copied in part
    by part: at most one part's embeddings are in memory.
    """
    with replacing_durably(path) as temporary:
        # Copied: a slice would keep the memory of the whole part.
        others = [
            part.drop_columns(list(columns)).take(pa.array(np.arange(len(part))))
            for part in parts()
        ]
        table = pa.concat_tables(others).combine_chunks()
        for column in columns:
            field = schema.field(column)
            size, dtype = field.type.list_size, field.type.value_type.to_pandas_dtype()
            zeros = pa.array(np.zeros(len(table) * size, dtype))
            table = table.append_column(field, pa.FixedSizeListArray.from_arrays(zeros, size))
        with pa.OSFile(str(temporary), "w") as sink, pa.ipc.new_stream(sink, schema) as stream:
            stream.write_table(table.select(schema.names).cast(schema))
        data, memory = map_file(temporary)
        offsets = {name: next(locate(data, memory, name), (0, 0))[0] for name in columns}
        del data, memory
        with temporary.open("r+b") as file:
            for part in parts():
                for column in columns:
                    file.seek(offsets[column])
                    for chunk in part[column].chunks:
                        offsets[column] += file.write(np.from_dlpack(chunk.flatten()).data)


def read_failures(files: Iterable[tuple[Path, int]]) -> Iterator[pa.RecordBatch]:
    """Yield the valid rows of files of failures."""
    for path, rows in files:
        with explain_damage(path):
            file = pq.ParquetFile(path, page_checksum_verification=True)
            for batch in file.iter_batches():
                batch.validate(full=True)
                yield batch.cast(FAILURES_SCHEMA).slice(0, rows)
                rows -= min(rows, len(batch))


@contextlib.contextmanager
def explain_write_errors(folder: Path, consequence: str = "") -> Iterator[None]:
    """Raise a write error as a one-line `TableError` that ends with the consequence."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK_ERRORS:
            message = f"There is no room left to write to {folder}. Make some. {consequence}"
        else:
            reason = error.strerror or one_line(error)
            message = f"{folder} can't be written to: {reason}. {consequence}"
        raise TableError(message.rstrip()) from error


@contextlib.contextmanager
def replacing_durably(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` once its content is on disk."""
    with replacing(path) as temporary:
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    with replacing_durably(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def is_table_file(name: str) -> bool:
    """Return whether a file name is one that a table's folder may hold."""
    return name.startswith((LOCK_FILE, STATE_FILE, INFO_FILE, "data-", "failures")) or (
        name.startswith(".") and name.endswith(".part")
    )


def check_ids(ids: Sequence[str]) -> pa.Array:
    """Return ids as an Arrow array; a `TableError` if one is no string."""
    if not all(isinstance(row_id, str) for row_id in ids):
        raise TableError("Expected ids as strings; use str(id).")
    return pa.array(ids, pa.string())
