"""Check of the data folder that the demo models are trained from (docs/demo-models.md)."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TABLES = {
    "kinds.csv": {"kind", "photo_classes", "cifar10", "esc50", "animals"},
    "photos/photos_kinds.parquet": {"jpeg", "class_id", "name", "kind"},
    "photos/photos_other.parquet": {"jpeg", "class_id", "name"},
    "photos/imagenet_classes.csv": {"index", "wnid", "name"},
    "sounds/esc50.csv": {"file", "fold", "category"},
    "sounds/animals.csv": {"file", "kind"},
    "audiocaps/train.csv": {"caption"},
}
"""Tables of the data folder, with the columns that are read."""

FOLDERS = {"photos/full": "*/*.jpg", "conceptual_captions": "*.tsv"}
"""Folders, each with the pattern of the files that are read."""

YAMNET = "pretrained/yamnet_weights.npz"
YAMNET_ARRAY = "layer_with_weights-0/kernel"
IMAGENET_CLASSES = 1000


def check_layout(folder: Path) -> list[str]:
    """Check a data folder, without decoding images or audio.

    Args:
        folder: The data folder.

    Returns:
        One line per problem: the file, what is wrong, and what was expected. Empty if the recipe
        can be run.
    """
    return list(_problems(folder))


def _problems(folder: Path) -> Iterator[str]:
    for name, columns in TABLES.items():
        if not (folder / name).is_file():
            yield f"{name} is missing."
            continue
        try:
            rows, found = _read(folder / name)
        except (OSError, ValueError, pa.ArrowException, csv.Error) as error:
            yield f"{name} can't be read: {str(error).splitlines()[0]}"
            continue
        if absent := sorted(columns - found):
            yield f"{name} has no column {', '.join(absent)}; it has {', '.join(sorted(found))}."
        elif name == "photos/imagenet_classes.csv" and len(rows) != IMAGENET_CLASSES:
            yield f"{name} has {len(rows)} rows; expected {IMAGENET_CLASSES}, ImageNet's classes."
        elif "file" in columns:
            places = [folder / "sounds" / row["file"] for row in rows]
            if absent := [path.name for path in places if not path.is_file()]:
                yield f"{name} names {len(absent)} files that are missing, such as {absent[0]}."
    for name, pattern in FOLDERS.items():
        if not any((folder / name).glob(pattern)):
            yield f"{name} has no file {pattern}."
    if not (folder / YAMNET).is_file():
        yield f"{YAMNET} is missing."
    else:
        try:
            with np.load(folder / YAMNET) as arrays:
                if YAMNET_ARRAY not in arrays:
                    yield f"{YAMNET} has no array {YAMNET_ARRAY}."
        except (OSError, ValueError) as error:
            yield f"{YAMNET} can't be read: {str(error).splitlines()[0]}"


def _read(path: Path) -> tuple[list[dict[str, str]], set[str]]:
    """Read the rows of a CSV file, or none of a Parquet file, and the columns."""
    if path.suffix == ".parquet":
        return [], set(pq.read_schema(path).names)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        return list(reader), set(reader.fieldnames or ())
