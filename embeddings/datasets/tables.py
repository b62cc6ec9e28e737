"""Tables of records with named columns: CSV, TSV, JSON lines and Parquet files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import is_url
from clip2clap.embeddings.datasets.base import (
    Row,
    Source,
    Url,
    caption_of,
    file_of,
    file_stems,
    split_columns,
)
from clip2clap.embeddings.datasets.readers import PROBLEM, read_table
from clip2clap.embeddings.space import Modality

# In the order of preference: a file's bytes come before its address.
_USUAL_NAMES = {
    "id": "id key",
    "caption": "caption text captions",
    "image": "image jpg jpeg png webp image_bytes image_path image_file_name file_name filename "
    "file path url image_url",
    "audio": "audio flac wav mp3 ogg opus m4a audio_bytes audio_path audio_file_name sound "
    "file_name filename file path",
}
_ATTRIBUTES = {"id": "id", "text": "caption", "image": "image", "audio": "audio"}


@dataclass(frozen=True)
class ColumnNames:
    """Columns of a table by content; None looks for the usual names."""

    id: str | None = None
    caption: str | None = None
    image: str | None = None
    audio: str | None = None
    keep: tuple[str, ...] = ()
    """Further columns to store beside the embeddings."""

    def find(
        self, columns: Sequence[str], wanted: frozenset[Modality], where: object
    ) -> dict[str, str]:
        """Return the names of the wanted columns by `id` and modality; raise if one can't be found.

        Usual names are found in any case, and with spaces.
        """
        plain = {name.strip().lower().replace(" ", "_"): name for name in reversed(columns)}
        found: dict[str, str] = {}
        for key, attribute in _ATTRIBUTES.items():
            if key != "id" and key not in wanted:
                continue
            given = getattr(self, attribute)
            usual = [plain[name] for name in _USUAL_NAMES[attribute].split() if name in plain]
            if given in columns or (not given and usual):
                found[key] = given or usual[0]
            elif given or key != "id":
                names = [given] if given else _USUAL_NAMES[attribute].split()[:2]
                if not any(columns):
                    raise UserError(f"{where} is empty, or holds no records. Check the path.")
                if any(map(is_url, columns)):
                    raise UserError(
                        f"{where} begins with an address, not with a line of column names. Begin "
                        "it with such a line, as url,caption."
                    )
                raise UserError(
                    f"{where} has the columns {one_line(', '.join(columns))}, not "
                    f"{' or '.join(names)}. Name the {attribute} column.",
                    param=f"{attribute}_column",
                )
        for name in [*found.values(), *self.keep]:
            if columns.count(name) > 1:
                raise UserError(f"{where} has {columns.count(name)} columns {name}. Rename one.")
        missing = [name for name in self.keep if name not in columns]
        if missing:
            raise UserError(f"{where} has no column {', '.join(missing)} to keep.", param="keep")
        return found


def rows_of(
    records: Iterable[Mapping[str, Any]],
    names: Mapping[str, str],
    keep: Sequence[str],
    *,
    stem: str,
    base: Path,
    split: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Row]:
    """Yield the rows of records, whose columns are named by `id` and modality.

    Rows without an id get the stem and their number; relative paths begin at the base.
    """
    for number, record in enumerate(records):
        given = record.get(names["id"]) if "id" in names else None
        row_id = f"{stem}:{number}" if given in (None, "") or given != given else str(given)
        content: dict[Modality, Any] = {}
        kept: dict[str, Any] = {}
        problem = record.get(PROBLEM)
        modalities: list[Any] = sorted(names.keys() - {"id"})
        for modality in modalities:
            value, is_text = record.get(names[modality]), modality == "text"
            column = "audio_file" if modality == "audio" and "image" in names else "file"
            kept["caption" if is_text else column] = None if is_text else row_id
            try:
                content[modality] = caption_of(value) if is_text else file_of(value, base)
            except UserError as error:
                problem = problem or str(error)
                continue
            if is_text:
                kept["caption"] = content["text"]
            elif isinstance(content[modality], Path | Url):
                path = value.get("path") or row_id if isinstance(value, Mapping) else value
                kept[column] = str(path)
            elif content[modality] is None and record.get("status") not in (None, "success"):
                # img2dataset writes why it has no image.
                problem = problem or f"{record['status']} ({record.get('error_message')})"
        kept |= {name: record.get(name) for name in keep}
        yield Row(row_id, {**kept, **split}, content, problem)


@dataclass(frozen=True)
class TableFiles(Source):
    """CSV, TSV, JSON lines or Parquet files; paths in them are relative to their folders."""

    files: tuple[Path, ...]
    wanted: frozenset[Modality]
    columns: ColumnNames = field(default_factory=ColumnNames)

    format = "table"

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "fields": settings_of(self.columns)}

    def checked(self) -> Self:
        """Return the source; raise if a file can't be read or lacks a column."""
        for file in self.files:
            self.columns.find(read_table(file)[0], self.wanted, file)
        return self

    def __iter__(self) -> Iterator[Row]:
        stems = file_stems(self.files)
        splits = split_columns(self.files) if len(self.files) > 1 else {}
        for file in self.files:
            columns, records = read_table(file)
            names = self.columns.find(columns, self.wanted, file)
            place: Any = {"stem": stems[file], "base": file.parent, "split": splits.get(file, {})}
            yield from rows_of(records, names, self.columns.keep, **place)


def settings_of(columns: ColumnNames) -> dict[str, Any]:
    """Return the names that are given, for a source's settings."""
    return {name: value for name, value in vars(columns).items() if value}
