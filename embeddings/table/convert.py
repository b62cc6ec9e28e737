"""Tables for other programs: Parquet, NumPy, CSV, and a text file a pair; and back.

What none of these formats holds of a table (ids, captions, the spaces of the embeddings) goes into
`rows.parquet` beside the vectors, from which it comes back.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow.parquet as pq
import torch

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import replacing
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    Family,
)
from clip2clap.embeddings.table.reader import EmbeddingTable, TableError, TableWriter, read_spaces

ExportFormat = Literal["parquet", "numpy", "csv", "text"]

_PARQUET = "table.parquet"
_ROWS = "rows.parquet"
_CSV_FILES: dict[Family, str] = {"clip": "CLIP.csv", "clap": "CLAP.csv"}
# Vectors turned into text at once.
_ROWS_AT_ONCE = 1024


def export_table(
    table: EmbeddingTable,
    folder: str | Path,
    format: ExportFormat,
    *,
    clip: str | None = None,
    clap: str | None = None,
) -> Path:
    """Write a table for another program.

    - `parquet`: `table.parquet`, everything in one file.
    - `numpy`: one `COLUMN.npy` a space, shape (n, d), in the table's dtype.
    - `csv`: `CLIP.csv`, a header and a row of values a vector, and `CLAP.csv`, a column of lists;
      these and the following are what the reference project's programs read.
    - `text`: `muestra_0.txt`, `muestra_1.txt`, ... in the folder, a pair each: the line
      "CLIP Embedding:", a value a line, two line ends, the line "CLAP Embedding:", a value a line.
      Their ids and captions go to `FOLDER.rows.parquet`, since readers take every file of the
      folder for a pair.

    Args:
        table: The table.
        folder: Where to write; it is made if it is not there.
        format: What to write.
        clip: For csv and text: the CLIP column; by default the only one.
        clap: For csv and text: the CLAP column; by default the only one.

    Returns:
        The folder.

    Raises:
        UserError: If the format is unknown, the table has no pair of columns to write, or the
            folder can't be written to or holds other files.
    """
    if format not in get_args(ExportFormat):
        raise UserError(
            f"Expected format as one of {', '.join(get_args(ExportFormat))}, got {format!r}."
        )
    target = Path(folder).expanduser()
    pair: dict[Family, str] = {}
    if format in ("csv", "text"):
        pair = {
            "clip": _only_column(table, "clip", clip),
            "clap": _only_column(table, "clap", clap),
        }
    try:
        target.mkdir(parents=True, exist_ok=True)
        if format == "parquet":
            table.to_parquet(target / _PARQUET)
        elif format == "numpy":
            for column in table.spaces:
                with replacing(target / f"{column}.npy") as partial, partial.open("wb") as file:
                    np.save(file, table.to_numpy(column))
            _write_rows(table, target / _ROWS, list(table.spaces))
        elif format == "csv":
            _write_csv(table, target, pair)
            _write_rows(table, target / _ROWS, list(pair.values()))
        else:
            _write_texts(table, target, pair)
            _write_rows(table, _beside(target), list(pair.values()))
    except OSError as error:
        raise UserError(f"{target} can't be written to: {error.strerror or error}.") from error
    return target


def import_table(
    source: str | Path,
    folder: str | Path,
    *,
    spaces: Mapping[str, EmbeddingSpace] | None = None,
) -> EmbeddingTable:
    """Make a table of what `export_table` wrote, or of the reference project's files.

    Args:
        source: The folder that was written: of Parquet, NumPy, CSV or text files.
        folder: Where the table goes.
        spaces: The spaces of "clip_..." and "clap_..." columns where no `rows.parquet` tells them,
            as of files that another program wrote; their vectors are scaled to unit norm.

    Returns:
        The table, of float32, with the rows in their order.

    Raises:
        UserError: If the folder holds none of the formats, or a file is damaged.
    """
    path = Path(source).expanduser()
    if (path / _PARQUET).is_file():
        return EmbeddingTable.from_parquet(path / _PARQUET, folder)
    rows_file = path / _ROWS if (path / _ROWS).is_file() else _beside(path)
    rows = pq.read_table(rows_file) if rows_file.is_file() else None
    if rows is not None:
        spaces = read_spaces(rows.schema, rows_file)
    if not spaces:
        raise UserError(
            f"Nothing says which models the vectors in {path} come from. Give their spaces, as "
            "from read_space."
        )
    columns: dict[Family, str] = {
        family: name for name in spaces for family in _CSV_FILES if name.startswith(family)
    }
    if any(path.glob("*.npy")):
        batches = _read_numpy(path, list(spaces))
    elif all((path / name).is_file() for name in _CSV_FILES.values()):
        batches = _read_csv(path, columns)
    elif any(path.glob("*.txt")):
        batches = _read_texts(path, columns)
    else:
        raise UserError(f"{path} holds no .npy, .txt, {' and '.join(_CSV_FILES.values())} files.")
    start = 0
    with TableWriter(folder, spaces, dtype="float32") as writer:
        for batch in batches:
            count = len(next(iter(batch.values())))
            vectors = {name: torch.from_numpy(values).float() for name, values in batch.items()}
            if rows is None:
                ids: list[str] = [str(place) for place in range(start, start + count)]
                vectors = {name: unit_norm(values) for name, values in vectors.items()}
                sources: dict[str, list[Any]] = {}
            else:
                told = rows.slice(start, count).to_pydict()
                ids = told.pop("id")
                sources = told
            if len(ids) != count:
                raise UserError(f"{rows_file} tells of fewer rows than there are vectors.")
            writer.append(ids, sources, vectors)
            start += count
        if rows is not None and start != len(rows):
            raise UserError(f"{path} holds {start} vectors, {rows_file} tells of {len(rows)} rows.")
    return EmbeddingTable.open(folder)


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.{_ROWS}")


def _only_column(table: EmbeddingTable, family: Family, named: str | None) -> str:
    columns = [name for name in table.spaces if name.startswith(family)]
    if named is not None:
        if named not in columns:
            raise UserError(
                f"{table.folder} has no {family.upper()} column {named!r}, only "
                f"{', '.join(columns) or 'none'}."
            )
        return named
    if len(columns) != 1:
        raise UserError(
            f"{table.folder} has {len(columns)} {family.upper()} columns "
            f"({', '.join(columns) or 'none'}); a pair takes one. Name it."
        )
    return columns[0]


def _write_rows(table: EmbeddingTable, path: Path, columns: Sequence[str]) -> None:
    """Write everything but the vectors, with the spaces of these columns."""
    with replacing(path) as partial:
        rows = table.rows(0, len(table)).select(["id", *table.sources])
        pq.write_table(table.described(rows, columns), partial)


def _batches(table: EmbeddingTable, column: str) -> Iterator[np.ndarray]:
    yield from np.array_split(
        table.to_numpy(column), range(_ROWS_AT_ONCE, len(table), _ROWS_AT_ONCE)
    )


def _write_csv(table: EmbeddingTable, folder: Path, pair: Mapping[Family, str]) -> None:
    for family, column in pair.items():
        with (
            replacing(folder / _CSV_FILES[family]) as partial,
            partial.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            # The reference project's reader of the one side takes values, of the other a list.
            names = [str(place) for place in range(table.spaces[column].dim)]
            writer.writerow(names if family == "clip" else ["embedding"])
            for vectors in _batches(table, column):
                for values in vectors.astype(np.float64).tolist():
                    writer.writerow(values if family == "clip" else [str(values)])


def _read_csv(folder: Path, columns: Mapping[Family, str]) -> Iterator[dict[str, np.ndarray]]:
    files = [(folder / _CSV_FILES[family]).open(newline="", encoding="utf-8") for family in columns]
    try:
        readers = [csv.reader(file) for file in files]
        for reader in readers:
            next(reader, None)
        for records in zip(*readers, strict=True):
            yield {
                column: np.array([[float(v) for v in ",".join(cells).strip("[]").split(",")]])
                for column, cells in zip(columns.values(), records, strict=True)
            }
    except ValueError as error:
        raise UserError(f"A line of {folder} can't be read ({error}). Export it again.") from error
    finally:
        for file in files:
            file.close()


def _write_texts(table: EmbeddingTable, folder: Path, pair: Mapping[Family, str]) -> None:
    for path in folder.iterdir():
        if not re.fullmatch(r"muestra_\d+\.txt", path.name):
            raise TableError(f"{folder} holds something else ({path.name}). Give an empty folder.")
    place = 0
    for clips, claps in zip(*(_batches(table, column) for column in pair.values()), strict=True):
        for clip, clap in zip(clips, claps, strict=True):
            with (folder / f"muestra_{place}.txt").open("w", encoding="ascii") as file:
                file.write("CLIP Embedding:\n")
                np.savetxt(file, clip.astype(np.float64))
                file.write("\n\nCLAP Embedding:\n")
                np.savetxt(file, clap.astype(np.float64))
            place += 1


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


def _read_numpy(folder: Path, columns: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    try:
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in columns}
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise UserError(f"{folder} can't be read as NumPy files ({reason}).") from error
    count = len(next(iter(arrays.values())))
    for start in range(0, count, _ROWS_AT_ONCE):
        yield {
            name: np.array(values[start : start + _ROWS_AT_ONCE]) for name, values in arrays.items()
        }
