"""Find out what kind of data set a file, a folder or a name is, and fetch the published ones."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.embeddings.datasets.rows import Source
from clip2clap.embeddings.datasets.sources import (
    AudioCaps,
    CaptionField,
    ConceptualCaptions,
    Fields,
    Folder,
    HubDataset,
    TableFile,
    WebDataset,
    Wit,
    table_columns,
)
from clip2clap.embeddings.space import Modality

Format = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]
Published = Literal["audiocaps", "conceptual-captions", "wit"]
Split = Literal["train", "val", "test"]

_AUDIOCAPS_URL = "https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset/"
_CONCEPTUAL_URL = "https://storage.googleapis.com/gcc-data/"
_WIT_URL = "https://storage.googleapis.com/gresearch/wit/"
_HOMES: dict[Published, str] = {
    "audiocaps": "https://github.com/cdjkim/audiocaps",
    "conceptual-captions": "https://ai.google.com/research/ConceptualCaptions/download",
    "wit": "https://github.com/google-research-datasets/wit/blob/main/DATA.md",
}
_WIT_FILES: dict[Split, int] = {"train": 10, "val": 5, "test": 5}
_TABLES = (".csv", ".tsv", ".parquet")
_MOST_FILE_BYTES = 10_000_000_000


def open_source(
    locations: Sequence[str | Path],
    *,
    wanted: frozenset[Modality],
    format: Format = "auto",
    fields: Fields | None = None,
    split: str | None = None,
    audio: Path | None = None,
    frames: Path | None = None,
    language: str = "en",
    caption_field: CaptionField = "auto",
) -> Source:
    """Open a data set to make embeddings from.

    Args:
        locations: A file, a folder or an id on the hub; several files, or a pattern like
            `shards/*.tar`, where a data set comes in several.
        wanted: What is embedded of a row.
        format: What it is; by default what it looks like.
        fields: The columns of a table of one's own or of a `datasets` data set.
        split: The split of a `datasets` data set; "train" if not given.
        audio: AudioCaps: the folder of the clips' sounds.
        frames: AudioCaps: the folder of the clips' frames.
        language: WIT: the language to take, by Wikipedia's code.
        caption_field: WIT: the caption to take.

    Returns:
        The source; nothing of it is in memory.

    Raises:
        UserError: If there is no such thing, or it does not hold what is wanted.
    """
    if format not in get_args(Format):
        raise UserError(f"Expected format as one of {', '.join(get_args(Format))}, got {format!r}.")
    names = [name for location in locations for name in _expanded(str(location))]
    if not names:
        raise UserError("Expected a file, a folder or an id on the hub to read from, got none.")
    if format == "auto":
        format = _guessed(names[0])
    paths = [Path(name).expanduser() for name in names]
    fields = fields or Fields()
    if format == "webdataset":
        shards = (sorted(path.glob("*.tar")) if path.is_dir() else [path] for path in paths)
        paths = [shard for found in shards for shard in found]
        if not paths:
            raise UserError(f"{names[0]} holds no tar files.")
    elif format not in ("conceptual-captions", "wit") and len(paths) > 1:
        raise UserError(f"Expected one {format} to read from, got {len(paths)}: {names[0]}, ...")
    if format != "datasets":
        for path in paths:
            if not path.exists():
                raise UserError(f"There is no file or folder {path}. Check the path.")
    source: Source
    match format:
        case "audiocaps":
            source = AudioCaps(paths[0], audio, frames)
        case "conceptual-captions":
            source = ConceptualCaptions(tuple(paths))
        case "wit":
            source = Wit(tuple(paths), language, caption_field)
        case "folder":
            source = Folder(paths[0], wanted)
        case "table":
            fields.chosen(table_columns(paths[0]), wanted, paths[0])
            source = TableFile(paths[0], wanted, fields)
        case "webdataset":
            source = WebDataset(tuple(paths), wanted)
        case _:
            source = HubDataset(names[0], wanted, fields, split or "train")
    lacking = wanted - source.modalities
    if lacking:
        raise UserError(
            f"{names[0]} holds {' and '.join(sorted(source.modalities))} only, not "
            f"{' and '.join(sorted(lacking))}."
        )
    return source


def _expanded(name: str) -> list[str]:
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = sorted(glob.glob(name))
    if not found:
        raise UserError(f"No file matches {name}.")
    return found


def _guessed(name: str) -> Format:
    """Tell what a file or folder is from its name, or for a table from its header."""
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return "datasets"
        return "webdataset" if any(path.glob("*.tar")) else "folder"
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".tar":
        return "webdataset"
    if suffix not in _TABLES:
        if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(
                f"{name} is no folder, tar, CSV, TSV or Parquet file, and no id on the hub. Check "
                "the path."
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


def published_files(dataset: Published, split: Split, folder: str | Path) -> tuple[Path, ...]:
    """Find a published data set's files in a folder; fetch those that are not there.

    Args:
        dataset: Which one.
        split: Which part of it.
        folder: Where its files are, or are to be.

    Returns:
        The files.

    Raises:
        UserError: If the part does not exist, or can't be fetched; the message says where to get
            it.
    """
    folder = Path(folder).expanduser()
    if dataset == "audiocaps":
        choices = [([f"{split}.csv"], f"{_AUDIOCAPS_URL}{split}.csv")]
    elif dataset == "wit":
        names = [
            f"wit_v1.{split}.all-{number:05}-of-{_WIT_FILES[split]:05}.tsv.gz"
            for number in range(_WIT_FILES[split])
        ]
        choices = [([name], _WIT_URL + name) for name in names]
    else:
        parts = {"train": "Train/GCC-training.tsv", "val": "Validation/GCC-1.1.0-Validation.tsv"}
        if split not in parts:
            raise UserError(
                "Conceptual Captions has no published test captions: take train or val."
            )
        part = parts[split]
        # The authors' page adds the folder's name to the file's.
        names = [Path(part).name, part.replace("/", "_")]
        choices = [(names, _CONCEPTUAL_URL + part)]
    return tuple(_found_or_fetched(names, url, folder, dataset) for names, url in choices)


def _found_or_fetched(names: Sequence[str], url: str, folder: Path, dataset: Published) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    from clip2clap.core.http import FetchError, fetch

    target = folder / names[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as partial,
            partial.open("wb") as file,
        ):
            fetch(url, max_bytes=_MOST_FILE_BYTES, allow_private=True, write=file.write)
    except FetchError as error:
        raise UserError(
            f"{target} is not there and can't be fetched ({error}). Get it from "
            f"{_HOMES[dataset]} and name it with --captions."
        ) from error
    except OSError as error:
        raise UserError(f"{target} can't be written: {error.strerror or error}.") from error
    return target
