"""Rows of data sets, their sources, and what cells and values of a row hold."""

import ast
import base64
import contextlib
import json
import math
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote_to_bytes

from clip2clap.core.errors import UserError, is_utf8
from clip2clap.core.files import is_url, visible_files, visible_folders
from clip2clap.embeddings.space import Modality

_MISSING: dict[Modality, str] = {"text": "no caption", "image": "no image", "audio": "no audio"}
# What pandas and others write for a missing value.
_NOTHING = {
    *("nan", "NaN", "-nan", "-NaN", "NaT", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a"),
    *("#N/A", "#NA", r"\N"),
}
# How NumPy and Python print arrays and bytes.
_ARRAY = re.compile(r"array\((\[.*\])(?:, dtype=\S+)?\)", re.DOTALL)
_BYTES = re.compile(r"b(['\"]).*\1", re.DOTALL)
_INVISIBLE = re.compile(r"[\s\u200b-\u200d\u2060\ufeff]*")
_STRING = r"""[bu]?(?:'(?:[^'\\]|\\.)*(?:'|\\?\Z)|"(?:[^"\\]|\\.)*(?:"|\\?\Z))"""
_VALUE = rf"{_STRING}|<NA>|[\w.+-]+"
# Value or end of a list in printed Python, and the gap after it, which NumPy leaves for a comma.
_PRINTED = re.compile(
    rf"(?:np\.\w+\(({_VALUE})\)|({_VALUE}|[\])}}]))(\s+(?=[^\s,:\])}}]))?", re.DOTALL
)
# No path is this long without a dot, which base64 has not.
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{200,}={0,2}\s*")
_SPLITS = {
    split: re.compile(rf"(?<![^\W\d_])(?:{words})(?![^\W\d_])", re.IGNORECASE)
    for split, words in (
        ("train", "train|training"),
        ("val", "val|valid|validation|dev"),
        ("test", "test|testing"),
    )
}


class Url(str):
    """HTTP(S) URL, as opposed to a path or a caption."""


class JsonLiteral(str):
    """JSON value that is neither a text nor a finite number, as written: true, Infinity."""


@dataclass(frozen=True)
class Row:
    """Row of a data set; its files are read only when they are needed.

    The id is unique in the data set. The columns are stored beside the embeddings: captions, files,
    URLs. The content is embedded: a `text` as str; an `image` as Path, `Url` or bytes of a file; an
    `audio` as Path or bytes of a file. The problem is why the row cannot be embedded, if the source
    knows.
    """

    id: str
    columns: Mapping[str, Any]
    content: Mapping[Modality, Any] = field(default_factory=dict)
    problem: str | None = None

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
        if modality == "text" and value is not None and _INVISIBLE.fullmatch(value):
            return "empty caption"
        if value is None or value in ("", b""):
            return _MISSING[modality]
    for name, value in row.columns.items():
        if isinstance(value, str) and not is_utf8(value):
            return f"its {name} is not valid UTF-8"
    return None


def caption_of(value: Any) -> str | None:
    """Return the caption in a cell or a JSON value, of several the first; raise if no text.

    Text that pandas writes for a missing value is none, and that of a list of captions is the list.
    """
    if isinstance(value, JsonLiteral):
        raise UserError(f"expected a caption as text, got {value}")
    if isinstance(value, str):
        value = None if value.strip() in _NOTHING else _listed(value)
    if isinstance(value, list | tuple):
        given = [each for each in value if isinstance(each, str) or not is_missing(each)]
        texts = [text for text in given if isinstance(text, str)]
        if given and not texts:
            raise UserError(f"expected captions as text, got a list of {type(given[0]).__name__}")
        return next((text for text in texts if not is_missing(text)), None)
    if value is None or value != value or value in (math.inf, -math.inf):  # or NaN
        return None
    if isinstance(value, bytes):
        return decoded(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"expected a caption as text, got a {type(value).__name__}")
    return str(value)


def is_missing(value: Any) -> bool:
    """Return True for an empty cell, NaN, and the texts that pandas and others write for them."""
    if isinstance(value, str):
        return value.strip() in {"", *_NOTHING}
    return value is None or value != value


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text by its first four bytes: UTF-8, -16 or -32."""
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "utf-32"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if b"\0" not in start:
        return "utf-8-sig"
    width = 32 if b"\0\0" in start else 16
    return f"utf-{width}-be" if start[:1] == b"\0" else f"utf-{width}-le"


def decoded(data: bytes) -> str:
    """Return a text in UTF-8, -16 or -32; bytes that are not UTF-8 become surrogates."""
    encoding = encoding_of(data[:4])
    try:
        return data.decode(encoding, "surrogateescape")
    except UnicodeDecodeError as error:
        raise UserError(f"its text is not valid {encoding.upper()}") from error


def _listed(text: str) -> Any:
    """Return what a text lists, as JSON, Python or NumPy print it; others as it is.

    A text of dictionaries, of a set or of bytes is returned as these.
    """
    stripped = _ARRAY.sub(r"\1", text.strip())
    if stripped[:1] + stripped[-1:] not in ("[]", "{}", "()") and not _BYTES.fullmatch(stripped):
        return text
    for parse in (json.loads, _parse_printed):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            found = parse(stripped)
            if isinstance(found, dict | set | bytes | list | tuple):
                return found
    return text


def _parse_printed(text: str) -> Any:
    """Return a value that Python or NumPy printed; raise what `ast.literal_eval` does."""

    def item(found: re.Match[str]) -> str:
        value = found[1] or found[2]
        return ("None" if value in _NOTHING else value) + ("," if found[3] else "")

    return ast.literal_eval(_PRINTED.sub(item, text))


def file_of(value: Any, base: Path) -> Path | Url | bytes | None:
    """Return the file in a table's cell as a URL, a path or bytes; raise if it is something else.

    A cell holds a path (relative to `base`), a URL, a data URI, base64 text, bytes, or the
    struct of `bytes` and `path` of the `datasets` library.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if is_missing(value) or value == b"":
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, JsonLiteral):
        raise UserError(f"expected a path, an address or bytes, got {value}")
    if not isinstance(value, str):
        raise UserError(f"expected a path, an address or bytes, got a {type(value).__name__}")
    text = value.strip()
    try:
        if text.startswith("data:"):
            kind, _, body = text.partition(",")
            data = unquote_to_bytes(body)
            return base64.b64decode(data) if kind.endswith(";base64") else data
        if _BASE64.fullmatch(text):
            return base64.b64decode(text)
    except ValueError as error:
        raise UserError(f"its base64 is damaged ({error})") from error
    if is_url(text):
        return Url(text)
    if "\\" in value and not os.path.exists(base / value):  # written on Windows
        value = value.replace("\\", "/")
    return base / value


def file_stem(path: Path) -> str:
    """Return a file's name without the suffixes of its format."""
    name = path.name.removesuffix(".gz")
    return name if path.is_dir() else Path(name).stem


def file_stems(files: Sequence[Path]) -> dict[Path, str]:
    """Return by file how its rows' ids begin: with its stem, and as many folders as doubles need.

    These are its own folder, then all up to the one that all files are in, then its whole name.
    """
    places = {path: Path(os.path.abspath(path)) for path in files}
    top = os.path.commonpath([place.parent for place in places.values()]) if places else ""
    found = {path: file_stem(path) for path in files}
    for longer in (
        lambda path: f"{path.parent.name}/{file_stem(path)}",
        lambda path: places[path].relative_to(top).with_name(file_stem(path)).as_posix(),
        lambda path: places[path].relative_to(top).as_posix(),
    ):
        counts = Counter(found.values())
        found |= {path: longer(path) for path, stem in found.items() if counts[stem] > 1}
    return found


def split_columns(files: Sequence[Path]) -> dict[Path, dict[str, str]]:
    """Return a `split` column by file from words of their names; none if one name has no split."""
    found: dict[Path, dict[str, str]] = {}
    for path in files:
        splits = {split for split, words in _SPLITS.items() if words.search(path.name)}
        if len(splits) != 1:
            return {}
        found[path] = {"split": splits.pop()}
    return found


def walk(folder: Path) -> Iterator[list[Path]]:
    """Yield the files of a folder, then those of its subfolders, sorted by name.

    Hidden files are left out; a folder that links lead to again is yielded once.
    """
    try:
        yield from map(visible_files, visible_folders(folder))
    except OSError as error:
        raise UserError(f"{folder} can't be read: {error.strerror or error}.") from error
