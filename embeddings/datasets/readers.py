"""Reading of table files: CSV, TSV, JSON lines and Parquet, gzipped or not, record by record."""

import contextlib
import csv
import gzip
import io
import json
import math
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import check_no_pointer
from clip2clap.embeddings.datasets.base import JsonLiteral, encoding_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet")

PROBLEM = "\0problem"
"""Key of a record's fault, such as more cells than there are columns."""

# Some cells of WIT are whole sections of an encyclopedia.
_MAX_CELL = 2**24
_BATCH_ROWS = 256
# Records whose keys are the columns of a JSON lines file.
_JSON_HEAD = 100
# First cells of rows rather than of a caption's further lines: numbers, addresses, names of files.
_ROW_START = re.compile(r"\s*(?:(\d+)|(https?://\S+)|([^\s\"]+\.\w{2,5}))\s*")

Records = Iterator[Mapping[str, Any]]


def is_table(path: Path) -> bool:
    """Return True if a file's name is that of a table."""
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def read_table(path: Path) -> tuple[list[str], Records]:
    """Return the columns of a table file, and an iterator over its records."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _read_json(path)
    return _read_csv(path, "\t" if suffix == ".tsv" else "")


def published_records(path: Path, expected: Sequence[str], dataset: str) -> Records:
    """Yield the records of a published CSV or TSV file; raise if a column is missing."""
    columns, records = read_table(path)
    missing = [name for name in expected if name not in columns]
    if missing:
        raise UserError(
            f"{path} is no {dataset} file: expected the columns {', '.join(expected)}; "
            f"{', '.join(missing)} missing."
        )
    yield from records


@contextlib.contextmanager
def open_text(path: Path, *, newline: str) -> Iterator[IO[str]]:
    """Open a text file, gzipped or not, in UTF-8, -16 or -32; other bytes become surrogates."""
    with explain_read_errors(path), path.open("rb") as raw:
        file = cast(IO[bytes], gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw)
        start = file.read(4)
        file.seek(0)
        yield io.TextIOWrapper(file, encoding_of(start), "surrogateescape", newline=newline)


@contextlib.contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Raise an error of a damaged file, or of a pointer to it, as a one-line `UserError`."""
    try:
        with path.open("rb") as file:
            check_no_pointer(file, path)
        yield
    except (OSError, EOFError, UnicodeError, zlib.error, csv.Error, pa.ArrowException) as error:
        raise UserError(
            f"{path} can't be read ({one_line(error)}). Download it again; rows embedded so far "
            "are safe."
        ) from error


def _read_csv(path: Path, delimiter: str) -> tuple[list[str], Records]:
    csv.field_size_limit(_MAX_CELL)

    def records() -> Records:
        with open_text(path, newline="") as file:
            lines = _Lines(iter(file))
            columns, mark, is_spaced = _header(lines, delimiter)
            for cells in lines.records(mark, len(columns)):
                if is_spaced:
                    cells = [cell.strip() for cell in cells]
                record = dict(zip(columns, cells, strict=False))
                # Cells that are left out at the end are empty.
                record |= dict.fromkeys(columns[len(cells) :], "")
                if any(cells[len(columns) :]):
                    record[PROBLEM] = f"expected {len(columns)} cells in its line, got {len(cells)}"
                yield record

    with open_text(path, newline="") as file:
        columns, _, _ = _header(_Lines(iter(file)), delimiter)
    return columns, records()


def _header(lines: "_Lines", delimiter: str) -> tuple[list[str], str, bool]:
    """Read the header: columns, delimiter, and True if spaces follow the delimiters."""
    first = lines.next() or ""
    if found := re.fullmatch(r"sep=(.)\s*", first):  # written by Excel
        delimiter, first = found[1], lines.next() or ""
    if not delimiter:
        unquoted = re.sub(r'"[^"]*"', "", first)
        delimiter = max(",;\t|", key=unquoted.count)
    lines.push(first)
    names = next(lines.records(delimiter, None), [])
    return [name.strip() for name in names], delimiter, names != [n.strip() for n in names]


class _Lines:
    """Lines of a file, some of which may be pushed back."""

    def __init__(self, lines: Iterator[str]):
        self._lines = lines
        self._pushed: deque[str] = deque()

    def next(self) -> str | None:
        return self._pushed.popleft() if self._pushed else next(self._lines, None)

    def push(self, *lines: str) -> None:
        self._pushed.extendleft(reversed(lines))

    def records(self, delimiter: str, width: int | None) -> Iterator[list[str]]:
        """Yield the cells of each record.

        A quote that is never closed, or within a cell, is a character: where quotes do not give a
        record, its first line is one. So it is where all lines of a quoted cell are records
        themselves, and in other files than TSV begin as such, all with a number, say.
        """
        while (line := self.next()) is not None:
            plain = line.rstrip("\r\n").split(delimiter)
            if '"' in line:
                taken = [line]
                cells = self._quoted(taken, delimiter)
                if len(taken) > 1 and all(each.count(delimiter) + 1 == width for each in taken):
                    starts = (_ROW_START.fullmatch(each.split(delimiter, 1)[0]) for each in taken)
                    kinds = {start and start.lastindex for start in starts}
                    is_swallowing = delimiter == "\t" or (len(kinds) == 1 and None not in kinds)
                    cells = None if is_swallowing else cells
                if cells is None or (width is not None and len(cells) != width):
                    self.push(*taken[1:])
                    lenient = next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
                    fits = delimiter != "\t" and len(lenient) == width
                    cells = lenient if fits else plain
                yield cells
            elif line.strip(" \r\n"):
                yield plain

    def _quoted(self, taken: list[str], delimiter: str) -> list[str] | None:
        """Return the cells of a record with quotes, whose further lines are taken."""

        def lines() -> Iterator[str]:
            yield taken[0]
            while (line := self.next()) is not None:
                taken.append(line)
                yield line

        try:
            return next(csv.reader(lines(), delimiter=delimiter, strict=True))
        except csv.Error:
            return None


def _read_json(path: Path) -> tuple[list[str], Records]:
    def records() -> Records:
        with open_text(path, newline="\n") as file:
            for value in _json_values(file):
                if isinstance(value, dict):
                    yield {name: _plain(each) for name, each in value.items() if each == each}
                else:
                    yield {PROBLEM: "its line is no JSON object"}

    head = chain.from_iterable(islice(records(), _JSON_HEAD))
    columns = [name for name in dict.fromkeys(head) if name != PROBLEM]
    if not columns:
        raise UserError(
            f"{path} is empty, or holds no records{_found_instead(path)}. Expected one object with "
            "the columns' names per line, or a list of them."
        )
    return columns, records()


def _found_instead(path: Path) -> str:
    """Return what a JSON file without records holds, after a colon."""
    with open_text(path, newline="\n") as file:
        first = next((line for line in file if line.strip()), "")
        text = first + (file.read() if first.lstrip()[:1] in ("[", "{") else "")
    if not first:
        return ""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f": it is no JSON ({one_line(error, limit=80)})"
    if isinstance(found, dict) and {"columns", "data"} <= found.keys():
        return ': it is as pandas writes it with orient="split", not with orient="records"'
    return f": it is {one_line(json.dumps(found), limit=60)}"


def _plain(value: Any) -> Any:
    """Return a JSON value's number as text, for numbers of one key may be of several types."""
    if not isinstance(value, int | float):
        return value
    is_number = not isinstance(value, bool) and math.isfinite(value)
    return json.dumps(value) if is_number else JsonLiteral(json.dumps(value))


def _json_values(file: IO[str]) -> Iterator[Any]:
    """Yield the values of JSON lines, or the records of one document; None for what is none."""
    read = (line for line in file if line.strip())
    first, second = next(read, ""), next(read, None)
    lines = chain([first] if second is None else [first, second], read)
    is_lines = second is not None and isinstance(_parse_line(first), dict)
    if not is_lines and first.lstrip()[:1] in ("[", "{"):
        whole = list(lines)
        document = _parse("".join(whole))
        # WavCaps, and pandas with its schema, have the records as their data.
        if isinstance(document, dict):
            document = document["data"] if isinstance(document.get("data"), list) else [document]
        if document is not None or first.lstrip()[:1] == "[":
            yield from document or [None]
            return
        lines = iter(whole)
    yield from map(_parse_line, lines)


def _parse_line(line: str) -> Any:
    return _parse(line.rstrip().removesuffix(","))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_parquet(path: Path) -> tuple[list[str], Records]:
    with explain_read_errors(path):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    info = _parse(((schema.metadata or {}).get(b"huggingface") or b"{}").decode("utf-8", "replace"))
    try:
        features = info["info"]["features"]
        classes = {n: f["names"] for n, f in features.items() if f.get("_type") == "ClassLabel"}
    except (AttributeError, KeyError, TypeError):
        classes = {}

    def records() -> Records:
        with explain_read_errors(path):
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for record in _records_of(batch):
                    yield with_class_names(record, classes)

    return list(schema.names), records()


def _records_of(batch: pa.RecordBatch) -> Records:
    """Yield a batch's records; one with a value that Python has not, such as a date, is a fault."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            yield {PROBLEM: f"its values can't be read ({one_line(error, limit=80)})"}
            return
        for row in range(len(batch)):
            yield from _records_of(batch.slice(row, 1))


def with_class_names(
    record: Mapping[str, Any], classes: Mapping[str, Sequence[str]]
) -> Mapping[str, Any]:
    """Return a record with the names of its classes in place of their numbers."""
    named = {}
    for column, names in classes.items():
        label: Any = record.get(column)
        is_known = isinstance(label, int) and 0 <= label < len(names)
        named[column] = names[label] if is_known else None
    return {**record, **named}
