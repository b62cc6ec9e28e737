"""What a source gives: rows that point to things, to be read only when they are needed."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip2clap.embeddings.space import Modality
from clip2clap.media.images import is_url


class Url(str):
    """An http(s) address, to tell it from a path or a caption."""


@dataclass(frozen=True)
class Row:
    """One row of a data set."""

    id: str
    """Its name, unique in the data set."""

    columns: Mapping[str, Any]
    """What is kept beside the embeddings: captions, files, addresses."""

    content: Mapping[Modality, Any] = field(default_factory=dict)
    """What is embedded: a `text` as str; an `image` as Path, `Url` or a file's bytes; an `audio` as
    Path or a file's bytes."""

    problem: str | None = None
    """Why it can't be embedded, if the source knows."""

    def __post_init__(self) -> None:
        # A name of bytes that are no UTF-8 is written all the same, with the bytes as escapes.
        object.__setattr__(self, "id", self.id.encode("utf-8", "backslashreplace").decode())


class Source(ABC):
    """A data set, read row by row in one order that never changes."""

    @abstractmethod
    def __iter__(self) -> Iterator[Row]:
        """Read the rows from the first on."""

    @property
    @abstractmethod
    def modalities(self) -> frozenset[Modality]:
        """What its rows hold."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides which rows come out, as plain values; a run goes on only with the same."""


def problem_of(row: Row, wanted: Iterable[Modality]) -> str | None:
    """Say why a row can't be embedded, as far as can be told without opening anything."""
    if row.problem is not None:
        return row.problem
    for modality in wanted:
        value = row.content.get(modality)
        if value is None or value == b"":
            return f"no {_WORDS[modality]}"
        if modality == "text" and not value.strip():
            return "empty caption"
    for name, value in row.columns.items():
        if isinstance(value, str) and not _is_encodable(value):
            return f"its {name} is not valid UTF-8"
    return None


def content_of(value: Any, base: Path) -> Path | Url | bytes | None:
    """Make something to open of a table's cell: an address, a path, or a file's bytes.

    Args:
        value: A text, bytes, or what `datasets` keeps of pictures and sounds: a struct of `bytes`
            and `path`.
        base: The folder that relative paths start from.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return value
    return Url(value) if is_url(str(value)) else base / str(value)


def _is_encodable(value: str) -> bool:
    # What was read with "surrogateescape" keeps bytes that are no UTF-8 as surrogates.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_WORDS: dict[Modality, str] = {"text": "caption", "image": "picture", "audio": "sound"}
