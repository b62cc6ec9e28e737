"""The photographs, recordings and captions that the demo models learn from, and their splits.

Splits are drawn once, by a fixed seed, within each class: a row is in the same split in every run.
Nothing of the test split is seen in training; choices are made on the validation split.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq
import soundfile
from PIL import Image

from clip2clap.core.errors import UserError

Split = Literal["train", "validation", "test"]

SAMPLING_RATE = 16_000
SPLIT_SEED = 20
# ESC-50 comes in folds that keep clips of one source together; this one is never trained on.
TEST_FOLD = "4"


@dataclass(frozen=True)
class Kind:
    """A thing that both looks and sounds."""

    name: str
    photo_classes: tuple[str, ...]
    cifar10: str
    esc50: str
    animals: str


@dataclass(frozen=True)
class Photo:
    """A photograph: JPEG bytes, its class name, the kind's name or "", and its split."""

    jpeg: bytes
    class_name: str
    kind: str
    split: Split
    full_size: bool = False

    def image(self) -> Image.Image:
        """Decode the photograph."""
        return Image.open(io.BytesIO(self.jpeg)).convert("RGB")


@dataclass(frozen=True)
class Recording:
    """A sound file with its label, the kind's name or "", and its split."""

    path: Path
    label: str
    kind: str
    split: Split


def split_rows(keys: Sequence[str], *, validation: float, test: float) -> list[Split]:
    """Assign rows to splits within each class.

    Args:
        keys: Class of each row.
        validation: Share of each class for validation; at least one row where the class has three.
        test: Share of each class for test, likewise.

    Returns:
        The split of each row.
    """
    splits: list[Split] = ["train"] * len(keys)
    classes = np.asarray(keys)
    for number, name in enumerate(sorted(set(keys))):
        rows = np.flatnonzero(classes == name)
        np.random.default_rng([SPLIT_SEED, number]).shuffle(rows)
        at_least = 1 if len(rows) >= 3 else 0
        n_test = max(round(test * len(rows)), at_least) if test else 0
        n_validation = max(round(validation * len(rows)), at_least) if validation else 0
        for row in rows[:n_test]:
            splits[row] = "test"
        for row in rows[n_test : n_test + n_validation]:
            splits[row] = "validation"
    return splits


class DemoData:
    """A data folder in the layout of the demo models' card.

    Args:
        folder: The folder with `kinds.csv`, `photos/`, `sounds/` and the captions.

    Raises:
        UserError: If the folder does not hold the data.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "kinds.csv").is_file():
            raise UserError(
                f"No kinds.csv in {self.folder}. Give the data folder with --data; "
                "docs/demo-models.md describes its layout."
            )

    @cached_property
    def kinds(self) -> list[Kind]:
        """The kinds, in the file's order."""
        rows = _read_csv(self.folder / "kinds.csv")
        return [
            Kind(
                r["kind"], tuple(r["photo_classes"].split()), r["cifar10"], r["esc50"], r["animals"]
            )
            for r in rows
        ]

    @cached_property
    def kind_names(self) -> list[str]:
        """Names of the kinds."""
        return [kind.name for kind in self.kinds]

    @cached_property
    def imagenet_names(self) -> list[str]:
        """ImageNet's 1,000 class names in the usual order."""
        return [
            r["name"].replace("_", " ")
            for r in _read_csv(self.folder / "photos/imagenet_classes.csv")
        ]

    @cached_property
    def photos(self) -> list[Photo]:
        """Every photograph: the kinds', the other classes', and the full-size ones."""
        return [*self._table("photos_kinds"), *self._table("photos_other"), *self._full_size()]

    @cached_property
    def recordings(self) -> list[Recording]:
        """Every recording: ESC-50's and the animals'."""
        esc50_kind = {kind.esc50: kind.name for kind in self.kinds if kind.esc50}
        animal_kind = {kind.animals: kind.name for kind in self.kinds if kind.animals}
        esc50 = _read_csv(self.folder / "sounds/esc50.csv")
        known = [row for row in esc50 if row["fold"] != TEST_FOLD]
        splits = iter(split_rows([row["category"] for row in known], validation=0.1, test=0.0))
        recordings = [
            Recording(
                self.folder / "sounds" / row["file"],
                row["category"],
                esc50_kind.get(row["category"], ""),
                "test" if row["fold"] == TEST_FOLD else next(splits),
            )
            for row in esc50
        ]
        animals = _read_csv(self.folder / "sounds/animals.csv")
        animal_splits = split_rows([row["kind"] for row in animals], validation=0.1, test=0.15)
        recordings += [
            Recording(
                self.folder / "sounds" / row["file"],
                row["kind"],
                animal_kind.get(row["kind"], ""),
                split,
            )
            for row, split in zip(animals, animal_splits, strict=True)
        ]
        return recordings

    @cached_property
    def captions(self) -> list[str]:
        """Captions of AudioCaps' training file and of Conceptual Captions' validation file."""
        audiocaps = [row["caption"] for row in _read_csv(self.folder / "audiocaps/train.csv")]
        path = next((self.folder / "conceptual_captions").glob("*.tsv"))
        lines = path.read_text(encoding="utf-8").splitlines()
        return audiocaps + [line.split("\t")[0].strip() for line in lines]

    def _table(self, name: str) -> list[Photo]:
        table = pq.read_table(self.folder / f"photos/{name}.parquet")
        classes = table["class_id"].to_pylist()
        splits = split_rows(classes, validation=0.1, test=0.1)
        names = table["name"].to_pylist()
        kinds = table["kind"].to_pylist() if "kind" in table.column_names else [""] * len(classes)
        jpegs = table["jpeg"].to_pylist()
        return [Photo(*row) for row in zip(jpegs, names, kinds, splits, strict=True)]

    def _full_size(self) -> list[Photo]:
        paths = sorted((self.folder / "photos/full").glob("*/*.jpg"))
        kinds = [path.parent.name if path.parent.name != "other" else "" for path in paths]
        splits = split_rows(
            ["kind" if kind else "other" for kind in kinds], validation=0, test=1 / 3
        )
        names = [path.stem.split("_", 1)[1].replace("_", " ") for path in paths]
        rows = zip(paths, names, kinds, splits, strict=True)
        return [
            Photo(path.read_bytes(), name, kind, split, full_size=True)
            for path, name, kind, split in rows
        ]


def read_recording(recording: Recording) -> np.ndarray:
    """Read a recording without the digital silence at its ends.

    ESC-50 fills short sounds up with zeros; a model that learnt from those would mostly learn
    silence.

    Args:
        recording: The recording to read.

    Returns:
        Mono float32 samples at `SAMPLING_RATE`.
    """
    waveform, rate = soundfile.read(recording.path, dtype="float32")
    if rate != SAMPLING_RATE or waveform.ndim != 1:
        raise UserError(f"Expected mono audio at {SAMPLING_RATE} Hz in {recording.path}.")
    loud = np.flatnonzero(np.abs(waveform) > 1e-3 * max(np.abs(waveform).max(), 1e-4))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform


def fill(waveform: np.ndarray, samples: int, *, offset: int = 0) -> np.ndarray:
    """Cut a recording to a length, or repeat it until it has that length.

    Args:
        waveform: Mono samples.
        samples: The length to return.
        offset: First sample to keep, where the recording is longer.

    Returns:
        Samples, shape (samples,).
    """
    if len(waveform) >= samples:
        offset = min(offset, len(waveform) - samples)
        return waveform[offset : offset + samples]
    return np.resize(waveform, samples)


def _read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
