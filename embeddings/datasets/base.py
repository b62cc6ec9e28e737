"""Rows of data sets, their sources, and the reading of text and table files."""

import contextlib
import csv
import gzip
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import pyarrow as pa

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.space import Modality
from clip2clap.media.images import is_url

# Some cells of WIT are whole sections of an encyclopedia.
_MAX_CELL = 2**24
_MISSING: dict[Modality, str] = {"text": "no caption", "image": "no image", "audio": "no audio"}


class Url(str):
    """HTTP(S) URL, as opposed to a path or a caption."""


@dataclass(frozen=True)
class Row:
    """Row of a data set; its files are read only when they are needed."""

    id: str
    """Id, unique in the data set."""

    columns: Mapping[str, Any]
    """Values stored beside the embeddings: captions, files, URLs."""

    content: Mapping[Modality, Any] = field(default_factory=dict)
    """Content to embed: a `text` as str; an `image` as Path, `Url` or bytes of a file; an `audio`
    as Path or bytes of a file."""

    problem: str | None = None
    """Reason why the row cannot be embedded, if the source reports one."""

    def __post_init__(self) -> None:
        # Bytes of a file name that are not UTF-8 are stored as escapes.
        object.__setattr__(self, "id", self.id.encode("utf-8", "backslashreplace").decode())


class Source(ABC):
    """Data set that is read row by row, always in the same order."""

    format: ClassVar[str]
    files: tuple[Path, ...]
    wanted: frozenset[Modality]

    @abstractmethod
    def __iter__(self) -> Iterator[Row]:
        """Yield the rows."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """Modalities of the rows."""
        return self.wanted

    @property
    def settings(self) -> dict[str, Any]:
        """Plain values that determine the rows; a run continues with equal settings only."""
        return {"source": self.format, "files": [file.name for file in self.files]}


def check_row(row: Row, wanted: Iterable[Modality]) -> str | None:
    """Return the reason why a row cannot be embedded, without opening a file."""
    if row.problem is not None:
        return row.problem
    for modality in wanted:
        value = row.content.get(modality)
        if value is None or value == b"":
            return _MISSING[modality]
        if modality == "text" and not value.strip():
            return "empty caption"
    for name, value in row.columns.items():
        if isinstance(value, str) and not _is_utf8(value):
            return f"its {name} is not valid UTF-8"
    return None


def _is_utf8(value: str) -> bool:
    # Bytes that are not UTF-8 were read as surrogates ("surrogateescape").
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def cell_content(value: Any, base: Path) -> Path | Url | bytes | None:
    """Return the file in a table's cell as a URL, a path or bytes.

    Args:
        value: String, bytes, or the struct of `bytes` and `path` of the `datasets` library.
        base: Folder of relative paths.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return value
    return Url(value) if is_url(str(value)) else base / str(value)


def file_stem(path: Path) -> str:
    """Return a file's name without the suffixes of its format."""
    name = path.name.removesuffix(".gz")
    return name if path.is_dir() else Path(name).stem


def split_columns(files: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Return a `split` column by file from the files' names; none if one name has no split."""
    found: dict[Path, dict[str, str]] = {}
    for path in files:
        names = [split for split in ("train", "val", "test") if split in path.name.lower()]
        if len(names) != 1:
            return {}
        found[path] = {"split": names[0]}
    return found


def walk(folder: Path) -> Iterator[list[Path]]:
    """Yield the files of a folder, then those of its subfolders, sorted by name."""
    inside = sorted(folder.iterdir(), key=lambda path: path.name)
    yield [path for path in inside if path.is_file()]
    for path in inside:
        if path.is_dir():
            yield from walk(path)


def open_text(path: Path, *, newline: str) -> IO[str]:
    """Open a text file, gzipped or not; bytes that are not UTF-8 become surrogates."""
    try:
        file = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    return io.TextIOWrapper(
        cast(IO[bytes], file), encoding="utf-8-sig", errors="surrogateescape", newline=newline
    )


@contextlib.contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Raise an error of a damaged file as a one-line `UserError`."""
    try:
        yield
    except (OSError, EOFError, csv.Error, pa.ArrowInvalid) as error:
        raise UserError(
            f"{path} can't be read ({one_line(error)}). Download it again; rows embedded so far "
            "are safe."
        ) from error


def csv_records(path: Path, delimiter: str) -> tuple[list[str], Iterator[dict[str, str]]]:
    """Return the columns of a CSV or TSV file, and an iterator over its records."""
    csv.field_size_limit(_MAX_CELL)
    file = open_text(path, newline="")
    reader = csv.DictReader(file, delimiter=delimiter, restkey="", restval="")

    def records() -> Iterator[dict[str, str]]:
        with file, explain_read_errors(path):
            for record in reader:
                record.pop("", None)
                yield record

    with explain_read_errors(path):
        return list(reader.fieldnames or ()), records()


def published_records(
    path: Path, delimiter: str, expected: Sequence[str], dataset: str
) -> Iterator[dict[str, str]]:
    """Yield the records of a published file.

    Raises:
        UserError: If a column is missing, or the file is cut off.
    """
    columns, records = csv_records(path, delimiter)
    missing = [name for name in expected if name not in columns]
    if missing:
        raise UserError(
            f"{path} is no {dataset} file: expected the columns {', '.join(expected)}; "
            f"{', '.join(missing)} missing."
        )
    for record in records:
        yield {name: value or "" for name, value in record.items()}
