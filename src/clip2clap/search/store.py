"""On-disk format of an index: settings, list of files, and vectors by content.

An index is a folder of `index.json` (the indexed folders, the encoders, and which tables count),
`files.parquet` (a row per file or line of text, with size, time and content hash, or the reason why
it could not be indexed), and an embedding table per modality, whose ids are content hashes. Tables
only grow, and are written before the list of files: after a killed run every row of the list has
its vector, and vectors that the list does not name yet are found by their hash, not encoded again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import as_path, remove_leftovers
from clip2clap.embeddings.space import EmbeddingSpace, Family, Modality
from clip2clap.embeddings.table.format import STATE_FILE, TableError, replacing_durably
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

SETTINGS_FILE = "index.json"
FILES_FILE = "files.parquet"
COLUMNS: dict[Modality, dict[str, Family]] = {
    "image": {"clip_image": "clip"},
    "audio": {"clap_audio": "clap"},
    "text": {"clip_text": "clip", "clap_text": "clap"},
}
"""Columns of the table of each modality, with the encoder of each."""

MODALITIES: tuple[Modality, ...] = ("image", "audio", "text")

FILES_SCHEMA = pa.schema(
    [
        ("path", pa.binary()),  # absolute; not all names are UTF-8
        ("line", pa.int32()),  # of a text file, from 1
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("modality", pa.string()),
        ("id", pa.string()),
        ("reason", pa.string()),
    ]
)
_VERSION = 1


class Entry(NamedTuple):
    """Row of the list of files: a file, or a line of a text file."""

    path: str
    line: int | None
    size: int
    mtime_ns: int
    modality: Modality
    id: str | None
    """Hash of the content; None for one that could not be indexed."""

    reason: str | None = None


@dataclass
class Settings:
    """Content of `index.json`."""

    roots: list[str] = field(default_factory=list)
    """Indexed files and folders, absolute."""

    models: dict[Family, str] = field(default_factory=dict)
    """Names of the encoders."""

    tables: dict[Modality, str] = field(default_factory=dict)
    """Folders of the tables, in that of the index."""

    version: int = _VERSION


class Store:
    """Folder of an index."""

    def __init__(self, folder: Path, settings: Settings):
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls, folder: str | Path) -> "Store":
        """Open the folder of an index.

        Raises:
            UserError: If it holds none, or `index.json` is damaged or of a newer version.
        """
        path = as_path(folder)
        file = path / SETTINGS_FILE
        if not file.is_file():
            raise UserError(
                f"{folder} holds no index (no {SETTINGS_FILE}). Make one with clip2clap index.",
                param="index",
            )
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            version = int(values["version"])
            settings = Settings(**values) if version == _VERSION else None
            if settings and [type(each) for each in values.values()] != [list, dict, dict, int]:
                raise ValueError("values of other types")
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise UserError(
                f"{file} is damaged ({one_line(error)}). Remove it and index the same folders into "
                "this one again: vectors that are there are kept.",
                param="index",
            ) from error
        if settings is None:
            raise UserError(
                f"{folder} was written by a newer clip2clap (format {version}). Update it.",
                param="index",
            )
        return cls(path, settings)

    @classmethod
    def open_or_create(cls, folder: Path) -> "Store":
        """Open the folder of an index for writing, or a new one.

        Raises:
            UserError: If it holds something else.
        """
        if (folder / SETTINGS_FILE).is_file():
            return cls.open(folder)
        ours = (FILES_FILE, *COLUMNS)
        others = [p.name for p in folder.iterdir() if not p.name.startswith((".", *ours))]
        if others:
            raise UserError(
                f"{folder} holds something else ({others[0]}). Give an empty folder, or that of "
                "an index.",
                param="output",
            )
        # Of an index whose settings were lost: a table's name ends in its number.
        found = sorted((p for p in folder.glob("*-*") if p.is_dir()), key=lambda p: p.name)
        return cls(folder, Settings(tables={_modality(p): p.name for p in found}))

    def write_settings(self) -> None:
        """Replace `index.json` in one step."""
        with replacing_durably(self.folder / SETTINGS_FILE) as temporary:
            text = json.dumps(asdict(self.settings), indent=2) + "\n"
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")

    def read_files(self) -> pa.Table:
        """Read the list of files; it is empty where none was written yet.

        Raises:
            UserError: If it is damaged.
        """
        file = self.folder / FILES_FILE
        if not file.is_file():
            return FILES_SCHEMA.empty_table()
        try:
            files = pq.read_table(file, page_checksum_verification=True).select(FILES_SCHEMA.names)
            return files.cast(FILES_SCHEMA).combine_chunks()
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise UserError(
                f"{file} is damaged ({one_line(error)}). Remove it and run clip2clap index -o "
                f"{self.folder} again: it is written anew, and no file is encoded twice.",
                param="index",
            ) from error

    def write_files(self, entries: Iterable[Entry]) -> None:
        """Replace the list of files in one step."""
        columns: Any = list(zip(*entries, strict=True)) or [[] for _ in FILES_SCHEMA]
        columns[0] = [os.fsencode(path) for path in columns[0]]
        columns[6] = [
            None if reason is None else reason.encode("utf-8", "backslashreplace").decode()
            for reason in columns[6]
        ]
        table = pa.table(columns, schema=FILES_SCHEMA)
        with replacing_durably(self.folder / FILES_FILE) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def table_folder(self, modality: Modality) -> Path:
        """Return the folder of a modality's table, which may not be there yet."""
        return self.folder / self.settings.tables.get(modality, f"{modality}-1")

    def open_table(self, modality: Modality) -> EmbeddingTable | None:
        """Open the table of a modality; None if there is none yet.

        Raises:
            UserError: If it is damaged.
        """
        folder = self.table_folder(modality)
        # A run that was killed before its first rows leaves a folder without a table.
        if not (folder / STATE_FILE).is_file():
            return None
        try:
            return EmbeddingTable.open(folder)
        except TableError as error:
            raise UserError(
                f"{one_line(error, limit=None).removesuffix(' Extract the table again.')} Remove "
                f"{folder} and run clip2clap index -o {self.folder} again, which encodes its files "
                "anew.",
                param="index",
            ) from error

    def spaces(self) -> dict[str, EmbeddingSpace]:
        """Return the spaces of the tables' columns."""
        tables = [self.open_table(modality) for modality in MODALITIES]
        return {c: space for t in tables if t is not None for c, space in t.spaces.items()}

    def remove_leftovers(self) -> None:
        """Remove what killed runs left: half-written files, and tables that no settings name.

        Tables whose rows they had written, but not merged into one file yet, are merged.
        """
        for modality in MODALITIES:
            own = self.table_folder(modality)
            for folder in self.folder.glob(f"{modality}-*"):
                if folder.is_dir() and folder != own:
                    shutil.rmtree(folder, ignore_errors=True)
            remove_leftovers(own)
            is_merged = len([*own.glob("data-*")]) < 2
            table = None if is_merged else self.open_table(modality)
            if table is not None:
                TableWriter(own, table.spaces).close()


def hash_file(file: BinaryIO) -> str:
    """Return the hash of an opened file's content."""
    stream: Any = file
    return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def hash_text(text: str) -> str:
    """Return the hash of a text."""
    content = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def entries_of(files: pa.Table) -> list[Entry]:
    """Return the rows of a list of files."""
    columns = [column.to_pylist() for column in files.columns]
    columns[0] = [os.fsdecode(path) for path in columns[0]]
    return list(map(Entry, *columns))


def _modality(folder: Path) -> Any:
    return folder.name.rpartition("-")[0]
