"""Data sets by format: detection of the format, and opening as a source of rows."""

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from clip2clap.core.errors import UserError, expect, one_line
from clip2clap.core.files import as_path, is_url, matching_paths
from clip2clap.core.presets import is_hub_id
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.base import Source, walk
from clip2clap.embeddings.datasets.conceptual_captions import ConceptualCaptions
from clip2clap.embeddings.datasets.folder import CAPTION_SUFFIXES, Folder
from clip2clap.embeddings.datasets.hub import HubDataset
from clip2clap.embeddings.datasets.readers import is_table, read_table
from clip2clap.embeddings.datasets.tables import ColumnNames, TableFiles
from clip2clap.embeddings.datasets.webdataset import SUFFIXES as SHARD_SUFFIXES
from clip2clap.embeddings.datasets.webdataset import WebDataset
from clip2clap.embeddings.datasets.wit import CaptionField, Wit
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files

Format = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]

# Lists and ranges of numbers, as shells and WebDataset expand them.
_BRACES = re.compile(r"\{(?:([0-9]{1,9})\.\.([0-9]{1,9})|([^{}]*,[^{}]*))\}")
_MAX_BRACES = 100
_MAX_SHARDS = 100_000
_MEDIA_SUFFIXES = image_files.SUFFIXES | audio_files.SUFFIXES | audio_files.VIDEO_SUFFIXES


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
        locations: File, folder or hub id; or several files, or a pattern such as `shards/*.tar`
            or `shards/{000..123}.tar`.
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
    formats = get_args(Format)
    expect(format in formats, "format", f"one of {', '.join(formats)}", format)
    names = [name for location in locations for name in _expand(str(location))]
    if not names:
        raise UserError("Expected a file, a folder or a hub id to read from, got none.")
    files, format = _find_files(names, format, wanted)
    columns = columns or ColumnNames()
    openers: dict[str, Callable[[], Source]] = {
        "audiocaps": lambda: AudioCaps(files[0], audio, frames),
        "conceptual-captions": lambda: ConceptualCaptions(files),
        "wit": lambda: Wit(files, language, caption_field),
        "folder": lambda: Folder(files[0], wanted),
        "table": lambda: TableFiles(files, wanted, columns).checked(),
        "datasets": lambda: HubDataset(names[0], wanted, columns, split or "train"),
        "webdataset": lambda: WebDataset(files, wanted),
    }
    source = openers[format]()
    lacking = wanted - source.modalities
    if lacking:
        raise UserError(
            f"{names[0]} holds {' and '.join(sorted(source.modalities))} only, not "
            f"{' and '.join(sorted(lacking))}."
        )
    return source


def _find_files(
    names: Sequence[str], format: Format, wanted: frozenset[Modality]
) -> tuple[tuple[Path, ...], Format]:
    """Return the files of a data set, and its format."""
    if format == "auto":
        format = _detect_format(names[0], wanted)
        files = _files_of(names, format)
        format = _detect_table(files[0]) if format == "table" else format
    else:
        files = _files_of(names, format)
    if format in ("audiocaps", "folder", "datasets") and len(files) > 1:
        raise UserError(f"Expected one {format} to read from, got {len(files)}: {files[0]}, ...")
    return tuple(files), format


def _files_of(names: Sequence[str], format: Format) -> list[Path]:
    """Return the paths, and in place of folders of shards or tables the files in them."""
    found: list[Path] = []
    for path in (as_path(name) for name in names):
        if format != "datasets" and not path.exists():
            raise UserError(f"There is no file or folder {path}. Check the path.")
        if not path.is_dir() or format not in ("webdataset", "table"):
            found.append(path)
            continue
        files = [file for inside in walk(path) for file in inside]
        if format == "webdataset":
            found += [file for file in files if file.name.lower().endswith(SHARD_SUFFIXES)]
        else:
            tables = [file for file in files if is_table(file)]
            parquet = [file for file in tables if file.suffix.lower() == ".parquet"]
            found += [file for file in tables if _is_metadata(file)] or parquet or tables
    if not found:
        raise UserError(f"{names[0]} holds no {format} files.")
    return found


def _is_metadata(file: Path) -> bool:
    """Return True for the table beside the files of an imagefolder or audiofolder."""
    return file.name in ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def _expand(name: str) -> list[str]:
    """Return the names that a pattern with *, ?, [], ** or {} stands for."""
    braces = _BRACES.search(name)
    if not (braces or glob.has_magic(name)) or as_path(name).exists():
        return [name]
    if braces is None:
        matching = matching_paths(name)
        if not matching:
            raise UserError(f"No file matches {name}.")
        return matching
    if len(_BRACES.findall(name)) > _MAX_BRACES:
        raise UserError(f"{one_line(name, limit=80)} has more than {_MAX_BRACES} braces.")
    first, last, listed = braces.groups()
    numbers = () if listed else range(int(first), int(last) + 1)
    parts = listed.split(",") if listed else (f"{number:0{len(first)}}" for number in numbers)
    found: list[str] = []
    for part in parts:
        found += _expand(f"{name[: braces.start()]}{part}{name[braces.end() :]}")
        if len(found) > _MAX_SHARDS:
            raise UserError(f"{name} stands for more than {_MAX_SHARDS:,} files.")
    return found


def _detect_format(name: str, wanted: frozenset[Modality]) -> Format:
    """Return the format of a file or folder by its name; that of a table is seen in its header."""
    path = as_path(name)
    if path.is_dir():
        return _detect_folder(path, wanted)
    if path.name.lower().endswith(SHARD_SUFFIXES):
        return "webdataset"
    if not is_table(path):
        if path.exists() or not is_hub_id(name):
            raise UserError(
                f"{name} is no folder, tar, CSV, TSV, JSON lines or Parquet file, and no hub id. "
                "Check the path.",
                param="source",
            )
        return "datasets"
    if not path.exists():
        raise UserError(f"There is no file {name}. Check the path.")
    return "table"


def _detect_table(path: Path) -> Format:
    """Return the format of a table file by its header."""
    columns, _ = read_table(path)
    if "audiocap_id" in columns:
        return "audiocaps"
    if "caption_reference_description" in columns:
        return "wit"
    if len(columns) == 2 and any(is_url(column) for column in columns):
        return "conceptual-captions"  # it has no header
    return "table"


def _detect_folder(path: Path, wanted: frozenset[Modality]) -> Format:
    if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        return "datasets"
    if any(file.name.lower().endswith(SHARD_SUFFIXES) for file in path.iterdir()):
        return "webdataset"
    has_media = has_parquet = has_table = False
    for files in walk(path):
        if "text" in wanted and any(map(_is_metadata, files)):
            return "table"
        media = {file.stem for file in files if file.suffix.lower() in _MEDIA_SUFFIXES}
        captions = {file.stem for file in files if file.suffix.lower() in CAPTION_SUFFIXES}
        if media and ("text" not in wanted or media & captions):
            return "folder"
        has_media |= bool(media)
        has_parquet |= any(file.suffix.lower() == ".parquet" for file in files)
        has_table |= any(map(is_table, files))
    # Images without captions beside Parquet files are those of a data set's page.
    return "table" if has_parquet or (has_table and not has_media) else "folder"
