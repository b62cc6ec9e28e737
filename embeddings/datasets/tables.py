"""CSV, TSV and Parquet files, and other sources of records with named columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import (
    Row,
    Source,
    cell_content,
    csv_records,
    explain_read_errors,
    file_stem,
)
from clip2clap.embeddings.space import Modality

_USUAL_NAMES = {
    "id": ["id", "key"],
    "caption": ["caption", "text", "TEXT"],
    "image": ["image", "image_path", "file", "path", "url", "image_url", "URL", "jpg"],
    "audio": ["audio", "audio_path", "sound", "wav", "file", "path"],
}
_BATCH_ROWS = 256


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
        """Return the names of the wanted columns, by `id` and modality.

        Raises:
            UserError: If a column can't be found.
        """
        found: dict[str, str] = {}
        for key, attribute in (
            ("id", "id"),
            ("text", "caption"),
            ("image", "image"),
            ("audio", "audio"),
        ):
            if key != "id" and key not in wanted:
                continue
            given = getattr(self, attribute)
            names = [given] if given else _USUAL_NAMES[attribute]
            name = next((name for name in names if name in columns), None)
            if name is None and (given or key != "id"):
                raise UserError(
                    f"{where} has the columns {', '.join(columns)}, not {' or '.join(names)}. Name "
                    f"the {attribute} column.",
                    param=f"{attribute}_column",
                )
            if name is not None:
                found[key] = name
        missing = [name for name in self.keep if name not in columns]
        if missing:
            raise UserError(f"{where} has no column {', '.join(missing)} to keep.", param="keep")
        return found


class Records(Source):
    """Source of records with named columns."""

    columns: ColumnNames
    wanted: frozenset[Modality]

    def _settings(self, source: str, files: Sequence[str]) -> dict[str, Any]:
        names = {name: value for name, value in vars(self.columns).items() if value}
        return {"source": source, "files": list(files), "fields": names}

    def _rows(
        self,
        records: Iterator[Mapping[str, Any]],
        columns: Sequence[str],
        *,
        where: Path | str,
        base: Path,
    ) -> Iterator[Row]:
        names = self.columns.find(columns, self.wanted, where)
        stem = file_stem(Path(where))
        for number, record in enumerate(records):
            given = record.get(names["id"]) if "id" in names else None
            row_id = f"{stem}:{number}" if given in (None, "") else str(given)
            content: dict[Modality, Any] = {}
            kept: dict[str, Any] = {}
            for modality in sorted(self.wanted):
                value = record.get(names[modality])
                if modality == "text":
                    content["text"] = None if value is None else str(value)
                    kept["caption"] = content["text"]
                    continue
                content[modality] = cell_content(value, base)
                name = value.get("path") if isinstance(value, Mapping) else value
                file = "audio_file" if modality == "audio" and "image" in self.wanted else "file"
                # Bytes without a path are named by their row.
                kept[file] = name if isinstance(name, str) else row_id
            kept |= {name: record.get(name) for name in self.columns.keep}
            yield Row(row_id, kept, content)


@dataclass(frozen=True)
class TableFile(Records):
    """CSV, TSV or Parquet file; paths in it are relative to its folder."""

    file: Path
    wanted: frozenset[Modality]
    columns: ColumnNames = field(default_factory=ColumnNames)

    @property
    def settings(self) -> dict[str, Any]:
        """Names of the file and of the columns."""
        return self._settings("table", [self.file.name])

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of the file."""
        columns, records = _read_table(self.file)
        return self._rows(records, columns, where=self.file, base=self.file.parent)


def _read_table(path: Path) -> tuple[list[str], Iterator[Mapping[str, Any]]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        with explain_read_errors(path):
            file = pq.ParquetFile(path)

        def records() -> Iterator[Mapping[str, Any]]:
            with explain_read_errors(path):
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    yield from batch.to_pylist()

        return list(file.schema_arrow.names), records()
    return csv_records(path, "\t" if name.endswith(".tsv") else ",")


def table_columns(path: Path) -> list[str]:
    """Return the column names of a CSV, TSV or Parquet file.

    Raises:
        UserError: If it can't be read.
    """
    return _read_table(path)[0]
