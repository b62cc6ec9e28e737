"""Data sets by format: detection of the format, and opening as a source of rows."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.base import Source
from clip2clap.embeddings.datasets.conceptual_captions import ConceptualCaptions
from clip2clap.embeddings.datasets.folder import Folder
from clip2clap.embeddings.datasets.hub import HubDataset
from clip2clap.embeddings.datasets.tables import ColumnNames, TableFile, table_columns
from clip2clap.embeddings.datasets.webdataset import WebDataset
from clip2clap.embeddings.datasets.wit import CaptionField, Wit
from clip2clap.embeddings.space import Modality

Format = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]

_TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")


def open_source(
    locations: Sequence[str | Path],
    *,
    wanted: frozenset[Modality],
    format: Format = "auto",
    columns: ColumnNames | None = None,
    split: str | None = None,
    audio: Path | None = None,
    frames: Path | None = None,
    language: str = "en",
    caption_field: CaptionField = "auto",
) -> Source:
    """Open a data set for extraction, without reading it into memory.

    Examples:
        >>> from clip2clap.embeddings import open_source
        >>> source = open_source(["photos"], wanted=frozenset({"image"}))
        >>> [row.id for row in source]
        ['dog.jpg', 'sea.jpg', 'train.jpg']

    Args:
        locations: File, folder or hub id; or several files, or a pattern such as `shards/*.tar`.
        wanted: Modalities to embed.
        format: Format of the data set; "auto" detects it.
        columns: Column names of a table or a `datasets` data set.
        split: Split of a `datasets` data set; "train" by default.
        audio: AudioCaps: folder of the clips' audio.
        frames: AudioCaps: folder of the clips' frames.
        language: WIT: language of the rows, by Wikipedia's code.
        caption_field: WIT: caption to use.

    Raises:
        UserError: If there is no such data set, or it lacks a wanted modality.
    """
    if format not in get_args(Format):
        choices = ", ".join(get_args(Format))
        raise UserError(f"Expected format as one of {choices}, got {format!r}.", param="format")
    names = [name for location in locations for name in _expand(str(location))]
    if not names:
        raise UserError("Expected a file, a folder or a hub id to read from, got none.")
    if format == "auto":
        format = _detect_format(names[0])
    columns = columns or ColumnNames()
    paths = _existing_paths(names, format)
    source: Source
    if format == "audiocaps":
        source = AudioCaps(paths[0], audio, frames)
    elif format == "wit":
        source = Wit(paths, language, caption_field)
    elif format == "datasets":
        source = HubDataset(names[0], wanted, columns, split or "train")
    else:
        source = _open_files(paths, format, wanted, columns)
    lacking = wanted - source.modalities
    if lacking:
        raise UserError(
            f"{names[0]} holds {' and '.join(sorted(source.modalities))} only, not "
            f"{' and '.join(sorted(lacking))}."
        )
    return source


def _open_files(
    paths: tuple[Path, ...], format: Format, wanted: frozenset[Modality], columns: ColumnNames
) -> Source:
    if format == "conceptual-captions":
        return ConceptualCaptions(paths)
    if format == "folder":
        return Folder(paths[0], wanted)
    if format == "webdataset":
        return WebDataset(paths, wanted)
    columns.find(table_columns(paths[0]), wanted, paths[0])
    return TableFile(paths[0], wanted, columns)


def _existing_paths(names: Sequence[str], format: Format) -> tuple[Path, ...]:
    paths = [Path(name).expanduser() for name in names]
    if format == "webdataset":
        shards = (sorted(path.glob("*.tar")) if path.is_dir() else [path] for path in paths)
        paths = [shard for found in shards for shard in found]
        if not paths:
            raise UserError(f"{names[0]} holds no tar files.")
    elif format not in ("conceptual-captions", "wit") and len(paths) > 1:
        raise UserError(f"Expected one {format} to read from, got {len(paths)}: {names[0]}, ...")
    for path in paths:
        if format != "datasets" and not path.exists():
            raise UserError(f"There is no file or folder {path}. Check the path.")
    return tuple(paths)


def _expand(name: str) -> list[str]:
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise UserError(f"No file matches {name}.")
    return found


def _detect_format(name: str) -> Format:
    """Return the format of a file or folder by its name, or of a table by its header."""
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return "datasets"
        return "webdataset" if any(path.glob("*.tar")) else "folder"
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".tar":
        return "webdataset"
    if suffix not in _TABLE_SUFFIXES:
        if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(
                f"{name} is no folder, tar, CSV, TSV or Parquet file, and no hub id. Check the "
                "path.",
                param="source",
            )
        return "datasets"
    if not path.exists():
        raise UserError(f"There is no file {name}. Check the path.")
    columns = table_columns(path)
    if "audiocap_id" in columns:
        return "audiocaps"
    if "caption_reference_description" in columns:
        return "wit"
    if suffix == ".tsv" and len(columns) == 2 and columns[1].startswith("http"):
        return "conceptual-captions"  # it has no header
    return "table"
