"""Images, audio and captions that the demo models are trained on, and their splits.

Splits are drawn once, by a fixed seed, within each class. The test split is never used in training;
hyperparameters are chosen on the validation split. The classifier that evaluates generated images
is trained on a split of its own.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image
from clip2clap.training.recipes.demo.words import FURTHER_CLASSES

Split = Literal["train", "validation", "test", "classifier"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "classifier")

SAMPLING_RATE = 16_000
SPLIT_SEED = 20
# ESC-50 comes in folds that keep clips of one source together; this one is the test split.
TEST_FOLD = "4"


@dataclass(frozen=True)
class DemoClass:
    """Class of the demo models, with both images and audio."""

    name: str
    esc50: str
    animals: str


@dataclass(frozen=True)
class DemoImage:
    """JPEG image with its source's category, its demo class or "", and its split."""

    jpeg: bytes
    category: str
    label: str
    split: Split
    full_size: bool = False

    def load(self) -> Image.Image:
        """Decode the image."""
        return load_image(self.jpeg)


@dataclass(frozen=True)
class DemoAudio:
    """Audio file with its source's category, one of `audio_class_names` or "", and its split."""

    path: Path
    category: str
    label: str
    split: Split


def split_rows(
    keys: Sequence[str], *, validation: float, test: float, classifier: float = 0.0
) -> list[Split]:
    """Assign rows to splits within each class.

    Args:
        keys: Class of each row.
        validation: Share of each class for validation; at least one row of a class with three.
        test: Share of each class for test, likewise.
        classifier: Share of each class for the independent classifier, likewise.

    Returns:
        The split of each row.
    """
    splits: list[Split] = ["train"] * len(keys)
    classes = np.asarray(keys)
    for number, name in enumerate(sorted(set(keys))):
        rows = np.flatnonzero(classes == name)
        np.random.default_rng([SPLIT_SEED, number]).shuffle(rows)
        at_least, start = 1 if len(rows) >= 3 else 0, 0
        shares: tuple[tuple[Split, float], ...] = (
            ("test", test),
            ("validation", validation),
            ("classifier", classifier),
        )
        for split, share in shares:
            count = max(round(share * len(rows)), at_least) if share else 0
            for row in rows[start : start + count]:
                splits[row] = split
            start += count
    return splits


class DemoData:
    """Data folder in the layout that the demo models' card describes.

    Args:
        folder: Folder with `kinds.csv`, `photos/`, `sounds/` and the captions.

    Raises:
        UserError: If the folder does not contain the data.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "kinds.csv").is_file():
            raise UserError(
                f"No kinds.csv in {self.folder}. Expected the data folder that "
                "docs/demo-models.md describes.",
                param="data",
            )

    @cached_property
    def classes(self) -> list[DemoClass]:
        """Demo classes, in the file's order."""
        rows = _read_csv(self.folder / "kinds.csv")
        return [DemoClass(row["kind"], row["esc50"], row["animals"]) for row in rows]

    @cached_property
    def class_names(self) -> list[str]:
        """Names of the demo classes."""
        return [one.name for one in self.classes]

    @cached_property
    def audio_class_names(self) -> list[str]:
        """Names of the demo classes, then of the further classes that there are recordings of."""
        categories = {row["category"] for row in _read_csv(self.folder / "sounds/esc50.csv")}
        further = [name for name in FURTHER_CLASSES if _category(name) in categories]
        return [*self.class_names, *further]

    @cached_property
    def imagenet_names(self) -> list[str]:
        """ImageNet's 1,000 class names in the usual order."""
        rows = _read_csv(self.folder / "photos/imagenet_classes.csv")
        return [row["name"].replace("_", " ") for row in rows]

    @cached_property
    def images(self) -> list[DemoImage]:
        """All images: of the demo classes, of other classes, and full-size ones."""
        return [*self._table("photos_kinds"), *self._table("photos_other"), *self._full_size()]

    @cached_property
    def audio(self) -> list[DemoAudio]:
        """All audio: ESC-50's and the animals'."""
        folder = self.folder / "sounds"
        esc50_label = {one.esc50: one.name for one in self.classes if one.esc50}
        animal_label = {one.animals: one.name for one in self.classes if one.animals}
        further = self.audio_class_names[len(self.classes) :]
        esc50_label |= {_category(name): name for name in further}
        animal_label |= {name: name for name in further}
        esc50 = _read_csv(folder / "esc50.csv")
        known = [row for row in esc50 if row["fold"] != TEST_FOLD]
        known_splits = iter(
            split_rows([row["category"] for row in known], validation=0.1, test=0.0)
        )
        esc50_splits: list[Split] = [
            "test" if row["fold"] == TEST_FOLD else next(known_splits) for row in esc50
        ]
        animals = _read_csv(folder / "animals.csv")
        animal_splits = split_rows([row["kind"] for row in animals], validation=0.1, test=0.15)
        sources = (
            (esc50, "category", esc50_label, esc50_splits),
            (animals, "kind", animal_label, animal_splits),
        )
        return [
            DemoAudio(folder / row["file"], row[column], labels.get(row[column], ""), split)
            for rows, column, labels, splits in sources
            for row, split in zip(rows, splits, strict=True)
        ]

    @cached_property
    def captions(self) -> list[str]:
        """Captions of AudioCaps' training file and of Conceptual Captions' validation file."""
        audiocaps = [row["caption"] for row in _read_csv(self.folder / "audiocaps/train.csv")]
        path = next((self.folder / "conceptual_captions").glob("*.tsv"))
        lines = path.read_text(encoding="utf-8").splitlines()
        return audiocaps + [line.split("\t")[0].strip() for line in lines]

    def _table(self, name: str) -> list[DemoImage]:
        table = pq.read_table(self.folder / f"photos/{name}.parquet")
        classes = table["class_id"].to_pylist()
        splits = split_rows(classes, validation=0.05, test=0.1, classifier=0.05)
        names = table["name"].to_pylist()
        labels = table["kind"].to_pylist() if "kind" in table.column_names else [""] * len(classes)
        jpegs = table["jpeg"].to_pylist()
        return [DemoImage(*row) for row in zip(jpegs, names, labels, splits, strict=True)]

    def _full_size(self) -> list[DemoImage]:
        paths = sorted((self.folder / "photos/full").glob("*/*.jpg"))
        labels = [path.parent.name if path.parent.name != "other" else "" for path in paths]
        splits = split_rows(
            ["kind" if label else "other" for label in labels], validation=0, test=1 / 3
        )
        names = [path.stem.split("_", 1)[1].replace("_", " ") for path in paths]
        rows = zip(paths, names, labels, splits, strict=True)
        return [
            DemoImage(path.read_bytes(), name, label, split, full_size=True)
            for path, name, label, split in rows
        ]


def read_audio(audio: DemoAudio) -> np.ndarray:
    """Read mono float32 samples at `SAMPLING_RATE`, without digital silence at the ends.

    ESC-50 pads short clips with it.
    """
    waveform, rate = load_audio(audio.path)
    if rate != SAMPLING_RATE:
        raise UserError(f"Expected audio at {SAMPLING_RATE} Hz in {audio.path}, got {rate} Hz.")
    loud = np.flatnonzero(np.abs(waveform) > 1e-3 * max(np.abs(waveform).max(), 1e-4))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform


def fit_length(waveform: np.ndarray, samples: int, *, offset: int = 0) -> np.ndarray:
    """Crop a waveform from an offset to a number of samples, or repeat it up to that number."""
    if len(waveform) >= samples:
        offset = min(offset, len(waveform) - samples)
        return waveform[offset : offset + samples]
    return np.resize(waveform, samples)


def _category(name: str) -> str:
    """Return ESC-50's spelling of a further class."""
    return name.replace(" ", "_")


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
