"""Writing of embedding tables: in order, shard by shard, resumable after a killed run."""

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, get_args

import filelock
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clip2clap.core.errors import expect, one_line
from clip2clap.core.files import as_path, remove_leftovers
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model
from clip2clap.embeddings.table.format import (
    ARROW_DTYPES,
    FAILURES_FILE,
    FAILURES_SCHEMA,
    LOCK_FILE,
    Dtype,
    TableError,
    TableState,
    check_ids,
    dtype_of,
    explain_write_errors,
    is_table_file,
    read_failures,
    read_file,
    replacing_durably,
    spaces_metadata,
    write_shard,
)
from clip2clap.embeddings.table.ids import IdSet
from clip2clap.embeddings.table.reader import EmbeddingTable

# Closing merges shards into files of this size: few enough to map, and a column of a file is one
# contiguous buffer that a tensor can share.
_FILE_BYTES = 2**30
# Largest deviation from 1 of the norm of a unit-norm vector in half precision, with a margin.
_NORM_TOLERANCE = 1e-2
# Rows whose norms are computed at once, in a float32 copy.
_CHECKED_ROWS = 16_384


class TableWriter:
    """Append-only writer of an embedding table; on an existing table it continues that one.

    Examples:
        >>> from clip2clap import ClipEncoder
        >>> from clip2clap.embeddings import TableWriter
        >>> clip = ClipEncoder.from_pretrained("demo")
        >>> captions = ["rain on a roof", "a dog barks"]
        >>> with TableWriter("captions", {"clip_text": clip.space("text")}) as writer:
        ...     embeds = {"clip_text": clip.encode_text(captions)}
        ...     writer.append(["rain", "dog"], {"caption": captions}, embeds)
        ...     writer.fail("cat", "the file is empty")
        ...     print(len(writer), writer.failed, "dog" in writer)
        3 1 True

    Args:
        folder: Folder of the table.
        spaces: Space of every embedding column; a column's name begins with its space's family and
            modality, such as "clip_text".
        dtype: Dtype of the stored embeddings.
        rows_per_shard: Rows after which appended rows are written; a killed run loses fewer than
            these. Closing the table merges the shards.
        settings: Plain values by name that determine the rows; stored with the table, which is
            continued with equal settings only.

    Raises:
        TableError: If the folder holds other files, can't be written to, is being written to by
            another run, or holds a table with other settings.
        SpaceMismatchError: If the folder holds a table of other spaces.
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
        expect(dtype in get_args(Dtype), "dtype", "float16 or float32", dtype)
        expect(rows_per_shard > 0, "rows_per_shard", "at least 1", rows_per_shard)
        if not spaces:
            raise TableError("Expected at least one space to write embeddings of, got none.")
        for column, space in spaces.items():
            prefix = f"{space.family}_{space.modality}"
            if not column.startswith(prefix):
                raise TableError(f"A column of {space} begins with {prefix!r}, got {column!r}.")
        self.folder = as_path(folder)
        self.spaces = dict(spaces)
        self.dtype: Dtype = dtype
        self._rows_per_shard = rows_per_shard
        # Through JSON, as they come back from the file: tuples become lists.
        self._settings = None if settings is None else json.loads(json.dumps(settings))
        self._rows: list[pa.Table] = []
        self._failures: dict[str, str] = {}
        self._appended = 0
        # None until the first rows bring the source columns.
        self._schema: pa.Schema | None = None
        self._has_rows = False
        self._ids = IdSet()
        with explain_write_errors(self.folder, "Nothing was written."):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = filelock.FileLock(self.folder / LOCK_FILE, timeout=0)
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
        state = TableState.read(self.folder)
        if state is None:
            others = [p.name for p in self.folder.iterdir() if not is_table_file(p.name)]
            if others:
                raise TableError(
                    f"{self.folder} holds something else ({others[0]}). Give an empty folder or "
                    "one that a table was written to."
                )
            state = TableState([], [], self._settings)
        else:
            self._check_settings(state.settings)
            self._resume_rows(state)
        self._state = state
        self._remove_stale_files()

    def _check_settings(self, before: dict[str, Any] | None) -> None:
        now = before if self._settings is None else self._settings
        self._settings = now
        if before is None and now is not None:
            raise TableError(
                f"{self.folder} holds a table of unknown origin, which can't be continued. Give "
                "another folder."
            )
        if before is None or now is None or before == now:
            return
        changed = [
            f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        raise TableError(
            f"{self.folder} holds a table made with other settings: {'; '.join(changed)}. "
            "Continue with the same settings, or give another folder."
        )

    def _remove_stale_files(self) -> None:
        """Remove files of an interrupted run that the state does not name."""
        named = {*self._state.files, *(file for file, _ in self._state.failures)}
        remove_leftovers(self.folder)
        for pattern in ("data-*", "failures-*"):
            for file in self.folder.glob(pattern):
                if file not in named:
                    file.unlink()

    def _resume_rows(self, state: TableState) -> None:
        table = EmbeddingTable.open(self.folder)
        if set(table.spaces) != set(self.spaces):
            raise TableError(
                f"{self.folder} holds embeddings of {', '.join(table.spaces)}, not "
                f"{', '.join(self.spaces)}. Give another folder."
            )
        for column, space in table.spaces.items():
            require_same_model(space, self.spaces[column], what=f"{column} in {self.folder}")
            dtype = dtype_of(table.data.schema, column)
            if dtype != self.dtype:
                raise TableError(
                    f"{self.folder} holds {dtype}; open it with dtype={dtype!r} or give another "
                    "folder."
                )
        self.spaces = table.spaces
        for ids in table.data["id"].chunks:
            self._ids.add(ids.to_pylist())
        for batch in read_failures(state.failures):
            self._ids.add(batch["id"].to_pylist())
        if len(table):
            self._has_rows = True
            self._schema = table.data.schema

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None:
            self.close()
            return
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            # Report the original error, not the flush failure it caused.
            stack.enter_context(contextlib.suppress(TableError))
            self.flush()

    def __len__(self) -> int:
        """Return the number of rows and failures, including those not yet written."""
        return len(self._ids)

    @property
    def failed(self) -> int:
        """Number of failures, including those not yet written."""
        return len(self._failures) + sum(count for _, count in self._state.failures)

    def __contains__(self, row_id: object) -> bool:
        """Return whether an id has a row or a failure already."""
        return isinstance(row_id, str) and self.known([row_id])[0]

    def known(self, ids: Sequence[str]) -> list[bool]:
        """Return for each id whether it is `in` the writer."""
        return self._ids.known(ids).tolist()

    def append(
        self,
        ids: Sequence[str],
        sources: Mapping[str, Sequence[Any]],
        embeds: Mapping[str, Tensor],
        *,
        failures: Mapping[str, str] | None = None,
    ) -> None:
        """Append rows.

        Args:
            ids: Id of every row, each new to the table.
            sources: Values by column that name each row's origin: captions, files, URLs, splits.
                Every call gives the same columns.
            embeds: Embeddings by column, each of shape (n, dim); unit norm if the space is.
            failures: Reasons by id of rows that failed; stored in the same step as the rows.

        Raises:
            TableError: If lengths, columns, shapes or norms do not fit, an id is in the table
                already, an embedding holds NaN, or the disk is full.
        """
        if set(embeds) != set(self.spaces):
            raise TableError(
                f"Expected embeddings of {', '.join(self.spaces)}, got {', '.join(embeds)}."
            )
        arrays: dict[str, pa.Array] = {"id": check_ids(ids)}
        for name, values in sources.items():
            if name == "id" or name in self.spaces:
                raise TableError(f"A source can't be named {name!r}: that column is reserved.")
            if len(values) != len(ids):
                raise TableError(f"Expected {len(ids)} values of {name!r}, got {len(values)}.")
            arrays[name] = self._source_array(name, values)
        for column, space in self.spaces.items():
            vectors = _check_embeds(embeds[column], len(ids), column, space)
            flat = vectors.to(getattr(torch, self.dtype)).reshape(-1).numpy()
            arrays[column] = pa.FixedSizeListArray.from_arrays(
                pa.array(flat, ARROW_DTYPES[self.dtype]), space.dim
            )
        self._append(pa.table(arrays), list(ids), failures or {})

    def append_table(self, rows: pa.Table) -> None:
        """Append rows of an Arrow table with the same columns; errors are those of `append`."""
        if missing := {"id", *self.spaces} - {*rows.column_names}:
            raise TableError(f"Expected rows with the column {min(missing)!r}.")
        for column, space in self.spaces.items():
            found, wanted = rows[column], pa.list_(ARROW_DTYPES[self.dtype], space.dim)
            if found.type != wanted or found.null_count:
                raise TableError(f"Expected {column} of {wanted} without nulls, got {found.type}.")
            for chunk in found.chunks:
                if (values := chunk.flatten()).null_count:
                    raise TableError(f"Expected {column} of {wanted} without nulls in its lists.")
                embeds = torch.from_dlpack(values).view(-1, space.dim)
                _check_embeds(embeds, len(chunk), column, space)
        ids = rows["id"].to_pylist()
        check_ids(ids)
        self._append(rows, ids, {})

    def fail(self, row_id: str, reason: str) -> None:
        """Record a row that failed, with the reason; its id is new to the table."""
        check_ids([row_id])
        self._append(None, [], {row_id: reason})

    def _source_array(self, name: str, values: Sequence[Any]) -> pa.Array:
        index = -1 if self._schema is None else self._schema.get_field_index(name)
        known = None if self._schema is None or index < 0 else self._schema.field(index).type
        try:
            array = pa.array(list(values), type=known)
        except (pa.ArrowException, OverflowError) as error:
            raise TableError(f"The values of {name!r} don't fit: {one_line(error)}") from error
        # A first batch without any value has no type; strings are the most likely.
        return array.cast(pa.string()) if pa.types.is_null(array.type) else array

    def _append(self, rows: pa.Table | None, ids: list[str], failures: Mapping[str, str]) -> None:
        if rows is not None and rows.num_rows:
            schema = self._schema or rows.schema.with_metadata(spaces_metadata(self.spaces))
            if rows.column_names != schema.names:
                raise TableError(
                    f"Expected the columns {', '.join(schema.names)}, got "
                    f"{', '.join(rows.column_names)}."
                )
            rows = rows.cast(schema)
        self._ids.add([*ids, *failures])
        if rows is not None and rows.num_rows:
            self._rows.append(rows)
            self._schema = rows.schema
        for row_id, reason in failures.items():
            # Reasons may hold file names that are not UTF-8.
            line = one_line(reason, limit=None).encode("utf-8", "backslashreplace").decode()
            self._failures[row_id] = line
        self._appended += len(ids) + len(failures)
        if self._appended >= self._rows_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the appended rows to disk; they survive the end of the process."""
        if not self._appended and self._state.files:
            return
        written = len(self._ids) - self._appended
        consequence = f"The {written} rows before are safe: start again."
        with explain_write_errors(self.folder, consequence):
            # A file without rows lacks the source columns, so the first rows replace it.
            files = list(self._state.files) if self._has_rows or not self._rows else []
            if self._rows or not files:
                files.append(self._write(lambda: self._rows or [self._empty()]))
            failed = list(self._state.failures)
            if self._failures:
                path = self._new_file("failures", ".parquet")
                columns = [list(self._failures), list(self._failures.values())]
                with replacing_durably(path) as temporary:
                    table = pa.table(columns, schema=FAILURES_SCHEMA)
                    pq.write_table(table, temporary, write_page_checksum=True)
                failed.append((path, len(self._failures)))
            self._commit(files, failed)
        self._has_rows = self._has_rows or bool(self._rows)
        self._rows, self._failures, self._appended = [], {}, 0

    def close(self) -> None:
        """Write the appended rows and merge the shards into one file, or a few large ones."""
        try:
            self.flush()
            # Without room for a copy the shards stay: the table is still valid.
            with contextlib.suppress(TableError), explain_write_errors(self.folder):
                self._merge_shards()
            self._remove_stale_files()
        finally:
            self._lock.release()

    def _merge_shards(self) -> None:
        groups: list[list[Path]] = []
        size = 0
        for file in self._state.files:
            size += file.stat().st_size
            if not groups or size > _FILE_BYTES:
                groups.append([])
                size = file.stat().st_size
            groups[-1].append(file)
        failures = self._state.failures
        if failures and [file.name for file, _ in failures] != [FAILURES_FILE]:
            # The old rows come first, so the previous state still describes the file correctly.
            with (
                replacing_durably(self.folder / FAILURES_FILE) as temporary,
                pq.ParquetWriter(temporary, FAILURES_SCHEMA, write_page_checksum=True) as target,
            ):
                for batch in read_failures(failures):
                    target.write_batch(batch)
            failures = [(self.folder / FAILURES_FILE, sum(count for _, count in failures))]
        if failures != self._state.failures or len(groups) < len(self._state.files):
            files = [
                self._write(partial(map, read_file, group)) if len(group) > 1 else group[0]
                for group in groups
            ]
            self._commit(files, failures)

    def _empty(self) -> pa.Table:
        columns = {"id": pa.array([], pa.string())}
        for column, space in self.spaces.items():
            columns[column] = pa.array([], pa.list_(ARROW_DTYPES[self.dtype], space.dim))
        return pa.table(columns).replace_schema_metadata(spaces_metadata(self.spaces))

    def _new_file(self, stem: str, suffix: str) -> Path:
        files = self.folder.glob(f"{stem}-*{suffix}")
        numbers = [int(file.stem.split("-")[1]) for file in files]
        return self.folder / f"{stem}-{max(numbers, default=-1) + 1:06d}{suffix}"

    def _write(self, parts: Callable[[], Iterable[pa.Table]]) -> Path:
        path = self._new_file("data", ".arrow")
        write_shard(path, parts, self._schema or self._empty().schema, self.spaces)
        return path

    def _commit(self, files: list[Path], failures: list[tuple[Path, int]]) -> None:
        state = TableState(files, failures, self._settings, self._state.checksums)
        state.write(self.folder, rows=len(self._ids))
        self._state = state


def _check_embeds(embeds: Tensor, rows: int, column: str, space: EmbeddingSpace) -> Tensor:
    """Return embeddings on the CPU; raise if shape, norms or a value do not fit the space."""
    if not isinstance(embeds, Tensor) or tuple(embeds.shape) != (rows, space.dim):
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        raise TableError(f"Expected {column} of shape ({rows}, {space.dim}), got {got}.")
    embeds = embeds.detach().cpu()
    for part in embeds.split(_CHECKED_ROWS):
        norms = part.float().norm(dim=1)
        # The norm is finite only if every value is.
        if not torch.isfinite(norms).all():
            raise TableError(f"An embedding of {column} holds NaN or infinity.")
        if space.unit_norm and len(norms) and (norms - 1).abs().max() > _NORM_TOLERANCE:
            worst = norms[(norms - 1).abs().argmax()].item()
            raise TableError(
                f"{column} should be unit norm, as its space says; got a vector of norm "
                f"{worst:.3g}. Embed with ClipEncoder or ClapEncoder, or set unit_norm=False in "
                "the space."
            )
    return embeds
