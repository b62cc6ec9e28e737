"""Conversion of embedding tables: export to and import from other formats, and concatenation.

Ids, captions and spaces, which NumPy, CSV and text files cannot hold, are written to
`rows.parquet` beside the vectors and read back from there.
"""

import contextlib
import csv
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError, expect, one_line
from clip2clap.core.files import as_path, check_no_pointer, replacing
from clip2clap.core.math import unit_norm
from clip2clap.core.output_folder import writing_to
from clip2clap.embeddings.space import EmbeddingSpace, Family, require_same_model
from clip2clap.embeddings.table.format import TableError, dtype_of, read_spaces, spaces_metadata
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

ExportFormat = Literal["parquet", "numpy", "csv", "text"]

_PARQUET = "table.parquet"
_ROWS = "rows.parquet"
_CSV_FILES: dict[Family, str] = {"clip": "CLIP.csv", "clap": "CLAP.csv"}
# Vectors converted to text at once.
_BATCH_ROWS = 1024


def export_table(
    table: EmbeddingTable,
    folder: str | Path,
    format: ExportFormat,
    *,
    clip: str | None = None,
    clap: str | None = None,
) -> Path:
    """Export a table for other programs.

    - `parquet`: `table.parquet`, everything in one file.
    - `numpy`: one `COLUMN.npy` per space, shape (n, dim), in the table's dtype.
    - `csv`: `CLIP.csv` (one column per value) and `CLAP.csv` (one column of lists), as the
      reference project's programs read them.
    - `text`: one `muestra_N.txt` per pair, one value per line, as the reference project's training
      reads them; ids and captions go to `FOLDER.rows.parquet`.

    Examples:
        >>> import torch
        >>> from clip2clap.embeddings import EmbeddingSpace, EmbeddingTable, TableWriter
        >>> space = EmbeddingSpace("clip", "a/clip", "text", 4, True, "weights")
        >>> with TableWriter("captions", {"clip_text": space}) as writer:
        ...     writer.append(["a", "b"], {}, {"clip_text": torch.eye(2, 4)})
        >>> folder = export_table(EmbeddingTable.open("captions"), "arrays", "numpy")
        >>> sorted(file.name for file in folder.iterdir())
        ['clip_text.npy', 'rows.parquet']

    Returns the folder, which is created if needed. The CLIP and CLAP columns of csv and text are by
    default the only ones.
    """
    formats = get_args(ExportFormat)
    expect(format in formats, "format", f"one of {', '.join(formats)}", format)
    target = as_path(folder)
    columns: dict[Family, str] = {}
    if format in ("csv", "text"):
        given: dict[Family, str | None] = {"clip": clip, "clap": clap}
        columns = {family: _pair_column(table, family, name) for family, name in given.items()}
    with writing_to(target):
        _write_files(table, target, format, columns)
    return target


def _write_files(
    table: EmbeddingTable, folder: Path, format: ExportFormat, pair: Mapping[Family, str]
) -> None:
    if format == "parquet":
        return table.to_parquet(folder / _PARQUET)
    # Rows are written last: vectors never stand beside those of an older export.
    rows_file = _rows_beside(folder) if format == "text" else folder / _ROWS
    if format != "text":
        rows_file.unlink(missing_ok=True)
    if format == "numpy":
        for column in table.spaces:
            with replacing(folder / f"{column}.npy") as partial, partial.open("wb") as file:
                np.save(file, table.to_numpy(column))
    elif format == "csv":
        for family, column in pair.items():
            _write_csv(table, folder / _CSV_FILES[family], family, column)
    else:
        _write_texts(table, folder, pair, rows_file)
    # The rows without their vectors, with the spaces of these columns.
    rows = table.data.select(["id", *table.sources])
    metadata = spaces_metadata({name: table.spaces[name] for name in pair.values() or table.spaces})
    with replacing(rows_file) as partial:
        pq.write_table(rows.replace_schema_metadata(metadata), partial)


def import_table(
    source: str | Path,
    folder: str | Path,
    *,
    spaces: Mapping[str, EmbeddingSpace] | None = None,
) -> EmbeddingTable:
    """Import what `export_table` wrote, or files of the reference project or clip-retrieval.

    Examples:
        >>> import numpy as np
        >>> from clip2clap.embeddings import EmbeddingSpace, import_table
        >>> np.save("clip_text.npy", np.eye(2, 4))
        >>> space = EmbeddingSpace("clip", "a/clip", "text", 4, True, "weights")
        >>> import_table(".", "captions", spaces={"clip_text": space}).ids
        ['0', '1']

    Args:
        source: Folder of Parquet, NumPy, CSV or text files; or of clip-retrieval's `img_emb`,
            `text_emb` and `metadata`, whose columns are kept.
        folder: Folder of the new table, in float32.
        spaces: Spaces of "clip_..." and "clap_..." columns, for files of other programs without a
            `rows.parquet`; their vectors are scaled to unit norm.
    """
    path = as_path(source)
    if (path / _PARQUET).is_file():
        return EmbeddingTable.from_parquet(path / _PARQUET, folder)
    rows_file = path / _ROWS if (path / _ROWS).is_file() else _rows_beside(path)
    is_own = rows_file.is_file()
    metadata = {} if is_own else _numbered(path, "metadata", ".parquet")
    rows = _read_rows([rows_file] if is_own else list(metadata.values()))
    if rows is not None and is_own:
        spaces = read_spaces(rows.schema, rows_file)
    if not spaces:
        raise UserError(
            f"No file says which models the vectors in {path} come from. Give their spaces, as "
            "from read_space.",
            param="spaces",
        )
    start = 0
    batches = _read_batches(path, spaces, metadata)
    with TableWriter(folder, spaces, dtype="float32") as writer:
        for batch in batches:
            count = len(next(iter(batch.values())))
            vectors = {name: torch.from_numpy(values).float() for name, values in batch.items()}
            sources = {} if rows is None else rows.slice(start, count).to_pydict()
            ids = sources.pop("id", [])
            if not is_own:
                ids = [str(index) for index in range(start, start + count)]
                vectors = {name: unit_norm(values) for name, values in vectors.items()}
            if len(ids) != count or any(len(values) != count for values in sources.values()):
                raise UserError(f"{path} has fewer rows than there are vectors.")
            writer.append(ids, sources, vectors)
            start += count
        if rows is not None and start != len(rows):
            raise UserError(f"{path} holds {start} vectors, {rows_file} has {len(rows)} rows.")
    return EmbeddingTable.open(folder)


def _read_batches(
    folder: Path, spaces: Mapping[str, EmbeddingSpace], metadata: Mapping[int | str, Path]
) -> Iterator[dict[str, np.ndarray]]:
    columns: dict[Family, str] = {
        family: name for name in spaces for family in _CSV_FILES if name.startswith(family)
    }
    csv_files = [folder / name for name in _CSV_FILES.values()]
    if any(folder.glob("*.npy")) or any(folder.glob("*_emb/*.npy")):
        return _read_numpy(_numpy_parts(folder, spaces, metadata))
    if all(file.is_file() for file in csv_files):
        return _read_csv({columns[family]: folder / _CSV_FILES[family] for family in columns})
    if any(folder.glob("*.txt")):
        return _read_texts(folder, columns)
    raise UserError(f"{folder} holds no .npy, .txt, {' and '.join(_CSV_FILES.values())} files.")


def concatenate(
    tables: Sequence[EmbeddingTable], folder: str | Path, *, rows_per_shard: int = 65_536
) -> EmbeddingTable:
    """Concatenate the rows and failures of several tables into a new one.

    Examples:
        >>> import torch
        >>> from clip2clap.embeddings import EmbeddingSpace, EmbeddingTable, TableWriter
        >>> space = EmbeddingSpace("clip", "a/clip", "text", 4, True, "weights")
        >>> for name in ("one", "two"):
        ...     with TableWriter(name, {"clip_text": space}) as writer:
        ...         writer.append([name], {}, {"clip_text": torch.eye(1, 4)})
        >>> concatenate([EmbeddingTable.open(name) for name in ("one", "two")], "both").ids
        ['one', 'two']

    Raises:
        SpaceMismatchError: If the embeddings of a column come from different models.
        TableError: If the columns or dtypes differ, or an id is in two tables.
    """
    if not tables:
        raise TableError("Expected at least one table to concatenate, got none.")
    first = tables[0]
    columns = first.data.column_names
    dtype = dtype_of(first.data.schema, next(iter(first.spaces)))
    for table in tables[1:]:
        if table.data.column_names != columns:
            raise TableError(
                f"{table.folder} has the columns {', '.join(table.data.column_names)}, "
                f"{first.folder} has {', '.join(columns)}: they can't be concatenated."
            )
        for column, space in first.spaces.items():
            what = f"{column} of {table.folder} joined to {first.folder}"
            require_same_model(space, table.spaces[column], what=what)
            if (got := dtype_of(table.data.schema, column)) != dtype:
                raise TableError(f"{table.folder} holds {got}, {first.folder} holds {dtype}.")
    with TableWriter(folder, first.spaces, dtype=dtype) as writer:
        for table in tables:
            for start in range(0, len(table), rows_per_shard):
                writer.append_table(table.rows(start, min(start + rows_per_shard, len(table))))
        for table in tables:
            for row_id, reason in table.failures().items():
                if row_id not in writer:
                    writer.fail(row_id, reason)
    return EmbeddingTable.open(folder)


def _rows_beside(folder: Path) -> Path:
    folder = folder.resolve()
    return folder.with_name(f"{folder.name}.{_ROWS}")


def _read_rows(files: Sequence[Path]) -> pa.Table | None:
    try:
        tables = [pq.read_table(file) for file in files]
        for table in tables:
            table.validate(full=True)
        return pa.concat_tables(tables, promote_options="default") if tables else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{files[0]} can't be read ({one_line(error)}).") from error


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int | str, Path]:
    """Return the parts of clip-retrieval, such as `img_emb/img_emb_0.npy`, by number, in order."""
    parts: dict[int | str, Path] = {}
    found = [*folder.glob(f"{stem}_*{suffix}"), *folder.glob(f"{stem}/{stem}_*{suffix}")]
    for file in sorted(found):
        name = file.name[len(stem) + 1 : -len(suffix)]
        number = int(name) if name.isdecimal() else name
        if number in parts:
            raise UserError(f"{file} and {parts[number]} are one part. Remove one.")
        parts[number] = file
    return dict(sorted(parts.items(), key=lambda part: (len(str(part[0])), str(part[0]))))


def _pair_column(table: EmbeddingTable, family: Family, named: str | None) -> str:
    columns = [name for name in table.spaces if name.startswith(family)]
    listed = ", ".join(columns) or "none"
    if named is not None and named not in columns:
        raise UserError(
            f"{table.folder} has no {family.upper()} column {named!r}, only {listed}.", param=family
        )
    if named is None and len(columns) != 1:
        raise UserError(
            f"{table.folder} has {len(columns)} {family.upper()} columns ({listed}); expected "
            "exactly one. Name it.",
            param=family,
        )
    return named or columns[0]


def _batches(table: EmbeddingTable, column: str) -> Iterator[np.ndarray]:
    for (vectors,) in table.chunks(column, rows=_BATCH_ROWS):
        yield vectors.double().numpy()


def _write_csv(table: EmbeddingTable, path: Path, family: Family, column: str) -> None:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        # The reference project reads values on the CLIP side, a list on the CLAP side.
        writer.writerow(range(table.spaces[column].dim) if family == "clip" else ["embedding"])
        for vectors in _batches(table, column):
            rows = vectors.tolist()
            writer.writerows(rows if family == "clip" else [[str(values)] for values in rows])


def _read_csv(files: Mapping[str, Path]) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(file.open(encoding="utf-8")) for file in files.values()]
        batches = [batched((line.strip().strip('"[]') for line in f), _BATCH_ROWS) for f in lines]
        try:
            for header in lines:
                next(header, None)
            for parts in zip(*batches, strict=True):
                arrays = [np.loadtxt(part, delimiter=",", ndmin=2) for part in parts]
                yield dict(zip(files, arrays, strict=True))
        except ValueError as error:
            folder = next(iter(files.values())).parent
            message = f"A line of {folder} can't be read ({error}). Export it again."
            raise UserError(message) from error


def _write_texts(
    table: EmbeddingTable, folder: Path, pair: Mapping[Family, str], rows_file: Path
) -> None:
    for path in folder.iterdir():
        if not re.fullmatch(r"muestra_\d+\.txt", path.name):
            raise TableError(f"{folder} holds something else ({path.name}). Give an empty folder.")
    folder = folder.resolve()
    partial, earlier = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    for leftover in (partial, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    columns = (chain.from_iterable(_batches(table, column)) for column in pair.values())
    try:
        for index, (clip, clap) in enumerate(zip(*columns, strict=True)):
            with (partial / f"muestra_{index}.txt").open("w", encoding="ascii") as file:
                file.write("CLIP Embedding:\n")
                np.savetxt(file, clip)
                file.write("\n\nCLAP Embedding:\n")
                np.savetxt(file, clap)
        rows_file.unlink(missing_ok=True)
        folder.rename(earlier)
        partial.rename(folder)
    finally:
        for leftover in (partial, earlier):
            shutil.rmtree(leftover, ignore_errors=True)


def _read_texts(folder: Path, columns: Mapping[Family, str]) -> Iterator[dict[str, np.ndarray]]:
    numbered = ((re.search(r"(\d+)\.txt$", path.name), path) for path in folder.glob("*.txt"))
    files = sorted((int(found[1]), path) for found, path in numbered if found)
    for _, path in files:
        halves = path.read_text("ascii", errors="replace").split("CLAP Embedding:")
        try:
            clip, clap = halves[0].removeprefix("CLIP Embedding:").split(), halves[1].split()
            values = {"clip": np.array([clip], np.float64), "clap": np.array([clap], np.float64)}
        except (IndexError, ValueError) as error:
            raise UserError(f"{path} holds no pair of embeddings. Export it again.") from error
        yield {column: values[family] for family, column in columns.items()}


def _numpy_parts(
    folder: Path, spaces: Mapping[str, EmbeddingSpace], metadata: Mapping[int | str, Path]
) -> list[dict[str, Path]]:
    """Return the files of each part by column; raise if they and the metadata don't match."""
    columns: dict[str, Mapping[int | str, Path]] = {}
    described = {"metadata": metadata} if metadata else {}
    for column, space in spaces.items():
        stem = {"image": "img_emb", "text": "text_emb", "audio": "audio_emb"}[space.modality]
        own = folder / f"{column}.npy"
        if own.is_file():
            columns[column] = {0: own}
            described = {}  # these rows may be those of several parts
        else:
            columns[column] = _numbered(folder, stem, ".npy")
        if not columns[column]:
            raise UserError(f"{folder} holds neither {column}.npy nor {stem}/{stem}_0.npy.")
    every = columns | described
    numbers = dict.fromkeys(number for parts in every.values() for number in parts)
    for name, parts in every.items():
        if missing := [str(number) for number in numbers if number not in parts]:
            listed = one_line(", ".join(missing), limit=80)
            raise UserError(f"{folder} lacks part {listed} of {name}, which others have.")
    for number in numbers:
        files = [parts[number] for parts in every.values()]
        rows = [_count(file) for file in files]
        if len(set(rows)) > 1:
            listed = ", ".join(f"{n} in {file}" for n, file in zip(rows, files, strict=True))
            raise UserError(f"Expected as many rows in all files of a part, got {listed}.")
    return [{name: parts[number] for name, parts in columns.items()} for number in numbers]


def _count(file: Path) -> int:
    return len(_load(file)) if file.suffix == ".npy" else pq.read_metadata(file).num_rows


def _read_numpy(parts: Sequence[Mapping[str, Path]]) -> Iterator[dict[str, np.ndarray]]:
    for files in parts:
        arrays = {column: _load(file) for column, file in files.items()}
        for start in range(0, max(map(len, arrays.values())), _BATCH_ROWS):
            yield {
                column: array[start : start + _BATCH_ROWS].astype(np.float32)
                for column, array in arrays.items()
            }


def _load(file: Path) -> np.ndarray:
    """Return the vectors of a file, read from disk when they are used."""
    try:
        with file.open("rb") as opened:
            check_no_pointer(opened, file)
        array = np.load(file, mmap_mode="r")
    except UserError:
        raise
    except Exception as error:  # a damaged header can make NumPy raise almost anything
        raise UserError(f"{file} can't be read as a NumPy file ({one_line(error)}).") from error
    if array.dtype.kind not in "fiu" or array.ndim != 2:
        raise UserError(
            f"Expected rows of numbers in {file}, got {array.dtype} of shape {array.shape}."
        )
    return array
