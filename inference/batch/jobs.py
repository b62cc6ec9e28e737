"""Jobs of a batch: audio to generate from images and prompts, as folders and tables list them."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from clip2clap.core.errors import UserError, is_utf8, one_line
from clip2clap.core.files import as_path, expand_inputs, is_local_url, is_url

COLUMNS = ("image", "prompt", "negative_prompt", "seed", "seconds")
"""Columns of a table of jobs."""

_TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_LONGEST_STEM = 80
_LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Job:
    """Audio to generate from one image or one prompt.

    Examples:
        >>> Job("photos/dog.jpg", seconds=2.5).stem
        'dog'
    """

    image: str | None = None
    """File or URL of the image."""

    prompt: str | None = None
    """Text in place of an image."""

    negative_prompt: str | None = None
    """Text to guide away from; by default that of the call."""

    seed: int | None = None
    """Seed; by default the run's, plus the number of jobs before this one."""

    seconds: float | None = None
    """Length of the audio; by default that of the call."""

    name: str | None = None
    """Name of its files; by default that of the image, or the words of the prompt."""

    allow_private: bool = False
    """Whether its image may be downloaded from this machine and its network."""

    problem: str | None = None
    """Reason why this row of a table cannot be used."""

    content: bytes | None = field(default=None, repr=False)
    """Bytes of the image's file, which is then not read; `image` is its name."""

    @property
    def source(self) -> str:
        """Image or prompt, or an empty text."""
        return self.image or self.prompt or ""

    @property
    def stem(self) -> str:
        """Preferred name of its files, without a suffix."""
        if self.name is not None:
            return self.name
        return text_stem(self.prompt) if self.image is None else image_stem(self.image)


def find_jobs(inputs: Sequence[str], *, recursive: bool = False) -> Iterator[Job]:
    """Yield the jobs of files, folders, patterns, URLs and tables, in their order.

    A table is a CSV, TSV or JSON lines file with columns among `COLUMNS`. Relative paths of its
    images begin at its folder. Of a list of prompts only the first is used. A row that cannot be
    used is yielded with its problem.

    Args:
        inputs: Images, tables, folders, http(s) URLs, and patterns such as `photos/**/*.jpg`.
        recursive: Whether to search the subfolders of folders, too.

    Raises:
        UserError: If none of the inputs exists, a folder or a pattern has no image, or a table has
            other columns.

    Examples:
        >>> [job.image for job in find_jobs(["dog.jpg", "https://example.org/cat.jpg"])]
        ['dog.jpg', 'https://example.org/cat.jpg']
    """
    from clip2clap.media.images import SUFFIXES

    tables = [f"{suffix}{packed}" for suffix in _TABLE_SUFFIXES for packed in ("", ".gz")]
    for path in expand_inputs(inputs, SUFFIXES, "image", recursive=recursive, named=tables):
        if is_url(path):
            # A server on this machine that is named itself needs no permission.
            yield Job(path, allow_private=is_local_url(path))
        elif _is_table(path) and as_path(path).is_file():
            yield from _rows(as_path(path))
        else:
            yield Job(path)


def image_stem(source: str) -> str:
    """Return the output name of an image: its file's name, or that of its URL."""
    if not is_url(source):
        return Path(source).stem
    return text_stem(Path(unquote(urlsplit(source).path)).stem, default="image")


def text_stem(text: str | None, *, default: str = "prompt") -> str:
    """Return an output name from the words of a text."""
    return re.sub(r"[^\w.-]+", "-", text or "").strip("-.")[:_LONGEST_STEM] or default


def _is_table(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith(_TABLE_SUFFIXES)


def _rows(table: Path) -> Iterator[Job]:
    """Yield the jobs of a table; raise if its columns are others."""
    from clip2clap.embeddings.datasets.readers import PROBLEM, read_table

    columns, records = read_table(table)
    names = {column: column.strip().lower() for column in columns}
    for column, name in names.items():
        if name not in COLUMNS:
            raise UserError(_unknown(f"{table} has a column {column!r}.", name), param="inputs")
    if not {"image", "prompt"} & set(names.values()):
        raise UserError(f"{table} has neither a column image nor prompt.", param="inputs")
    for number, record in enumerate(records, 1):
        values = {names.get(key, key): value for key, value in record.items()}
        problem = values.pop(PROBLEM, None)
        try:
            if problem:
                raise UserError(f"{problem}.")
            yield _job(values, table.parent, f"{table.stem}-{number}")
        except UserError as error:
            yield Job(problem=f"{table}, row {number}: {one_line(error)}")


def _unknown(what: str, name: str) -> str:
    close = difflib.get_close_matches(name, COLUMNS, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Expected {', '.join(COLUMNS)}."
    return f"{what} {hint}"


def _job(values: Mapping[str, Any], folder: Path, name: str) -> Job:
    """Return the job of a row, which names the image whose file is in the row; raise if none."""
    from clip2clap.embeddings.datasets.base import file_of

    for column in values.keys() - set(COLUMNS):
        raise UserError(_unknown(f"There is no column {column!r}.", column))
    image = values.get("image")
    if isinstance(image, str):
        image = os.path.expanduser(image.strip())
    try:
        image = file_of(image, folder)
    except UserError as error:
        raise UserError(f"image: {error}") from error
    prompt = _text(values, "prompt")
    if (image is None) == (prompt is None):
        raise UserError("Expected an image or a prompt, got " + ("both." if image else "neither."))
    return Job(
        name if isinstance(image, bytes) else None if image is None else str(image),
        prompt,
        _text(values, "negative_prompt"),
        _number(values, "seed", int, f"an integer from 0 to {_LARGEST_SEED}"),
        _number(values, "seconds", float, "a number above 0"),
        content=image if isinstance(image, bytes) else None,
    )


def _text(values: Mapping[str, Any], column: str) -> str | None:
    from clip2clap.embeddings.datasets.base import caption_of

    try:
        text = (caption_of(values.get(column)) or "").strip()
    except UserError as error:
        raise UserError(f"{column}: {error}") from error
    if not is_utf8(text):
        raise UserError(f"{column}: it is not valid UTF-8")
    return text or None


def _number(values: Mapping[str, Any], column: str, convert: type, expected: str) -> Any:
    from clip2clap.embeddings.datasets.base import is_missing

    if is_missing(values.get(column)):
        return None
    text = str(values[column]).strip()
    try:
        # pandas writes the integers of incomplete columns with .0.
        value = convert(re.sub(r"\.0+$", "", text))
        if 0 <= value <= _LARGEST_SEED if convert is int else 0 < value < float("inf"):
            return value
    except ValueError:
        pass
    raise UserError(f"Expected {column} to be {expected}, got {text!r}.")
