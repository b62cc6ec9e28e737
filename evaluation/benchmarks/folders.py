"""Folders of benchmarks in their published layouts, checked for completeness before use."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, visible_files
from clip2clap.embeddings.datasets.audiocaps import AudioCaps
from clip2clap.embeddings.datasets.readers import PROBLEM, open_text, published_records
from clip2clap.media.audio import SUFFIXES, VIDEO_SUFFIXES

_VGGSOUND_CELLS = ("YouTube id", "start", "label", "split")
_NAMED = 3
"""Missing files that a message names."""


@dataclass(frozen=True)
class Clip:
    """Audio file of a benchmark, or image."""

    id: str
    path: Path
    item: str
    """Recording that the clip was cut from; clips of one recording are resampled together."""

    fold: int = 0
    label: int = -1
    """Index of its label, in data sets that have labels."""

    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Benchmark:
    """Clips of a benchmark, with their labels or captions."""

    name: str
    title: str
    clips: tuple[Clip, ...]
    labels: tuple[str, ...] = ()
    """Labels as in the data set's file, in the order of their indices."""

    expected: int = 0
    """Clips of the complete data set."""

    lacking: str = ""
    """Missing clips, in words; empty for a complete folder."""

    @property
    def folds(self) -> list[int]:
        """Official folds that have clips, in ascending order."""
        return sorted({clip.fold for clip in self.clips})


def check_folds(folds: Iterable[int], *, param: str = "linear_probe") -> list[int]:
    """Return the folds of clips to train and to test on, in ascending order.

    Raises:
        UserError: If there are fewer than three; of the parameter that asks for training.
    """
    names = sorted(set(folds))
    if len(names) < 3:
        raise UserError(
            f"Training needs three folds or more, to train, choose and test on; there are "
            f"{len(names)}.",
            param=param,
        )
    return names


@dataclass(frozen=True)
class FoldLayout:
    """Published layout of a classification data set with official folds."""

    name: str
    title: str
    table: str
    """Path of the metadata."""

    columns: tuple[str, str, str, str, str]
    """Columns of the file name, the fold, the label's index, the label and the recording."""

    audio: str
    """Folder of a clip's file, with `{fold}`."""

    labels: int
    fold_sizes: Mapping[int, int]
    """Clips of each official fold."""

    url: str

    def read(self, folder: Path, *, partial: bool = False) -> Benchmark:
        """Read a folder; as for `read_benchmark`."""
        table = folder / self.table
        if not table.is_file():
            raise UserError(
                f"{folder} is no {self.title} as published: {self.table} is missing. Get it from "
                f"{self.url}, and name its top folder.",
                param="folder",
            )
        clips, labels = self._rows(folder, table)
        missing = [clip.path for clip in clips if not clip.path.is_file()]
        rows = {fold: sum(clip.fold == fold for clip in clips) for fold in self.fold_sizes}
        short = [
            f"{self.table} has {rows[fold]} of {size} clips of fold {fold}"
            for fold, size in self.fold_sizes.items()
            if rows[fold] != size
        ]
        lacking = _lacking(short, [str(path.relative_to(folder)) for path in missing])
        there = tuple(clip for clip in clips if clip.path not in set(missing))
        _require(self.title, folder, lacking, there, partial, self.url)
        if sorted(labels) != list(range(self.labels)):
            raise UserError(
                f"{table} has {len(labels)} labels, and {self.title} has {self.labels}.",
                param="folder",
            )
        return Benchmark(
            self.name,
            self.title,
            there,
            tuple(labels[index] for index in sorted(labels)),
            sum(self.fold_sizes.values()),
            lacking,
        )

    def _rows(self, folder: Path, table: Path) -> tuple[list[Clip], dict[int, str]]:
        clips: list[Clip] = []
        labels: dict[int, str] = {}
        for number, row in enumerate(published_records(table, self.columns, self.title), start=2):
            name, fold, index, label, item = (row[column] for column in self.columns)
            whole = fold.isdecimal() and int(fold) in self.fold_sizes and index.isdecimal()
            if PROBLEM in row or not whole or labels.setdefault(int(index), label) != label:
                raise UserError(
                    f"Line {number} of {table} is damaged: {name}, fold {fold}, label "
                    f"{index} {label}. Get it again from {self.url}.",
                    param="folder",
                )
            path = folder / self.audio.format(fold=fold) / name
            clips.append(Clip(name, path, item, int(fold), int(index)))
        twice = len(clips) - len({clip.id for clip in clips})
        if twice:
            raise UserError(f"{table} has {twice} clips twice.", param="folder")
        return clips, labels


@dataclass(frozen=True)
class CaptionLayout:
    """Published layout of a retrieval data set: a table of captions, and audio."""

    name: str
    title: str
    table: str
    audio: tuple[str, ...]
    """Folders that may hold the audio, the first that is there."""

    clips: int
    """Clips of the complete test split."""

    captions: int
    """Captions of each clip."""

    url: str

    def read(self, folder: Path, *, partial: bool = False) -> Benchmark:
        """Read a folder; as for `read_benchmark`."""
        audio = _find_clips(self, folder, "audio")
        read = _read_clotho if self.name == "clotho" else _read_audiocaps
        clips, missing = read(folder / self.table, audio)
        count = len(clips) + len(missing)
        short = [] if count == self.clips else [f"{self.table} has {count} of {self.clips} clips"]
        wrong = sum(len(clip.captions) != self.captions for clip in clips)
        short += [f"{wrong} clips have not {self.captions} captions"] if wrong else []
        lacking = _lacking(short, missing)
        _require(self.title, folder, lacking, clips, partial, self.url)
        return Benchmark(self.name, self.title, tuple(clips), expected=self.clips, lacking=lacking)


@dataclass(frozen=True)
class VggSoundLayout:
    """Published layout of VGGSound, whose test split is measured: a table without a header."""

    name: str = "vggsound"
    title: str = "VGGSound"
    table: str = "vggsound.csv"
    audio: tuple[str, ...] = ("test", "audio", "video")
    """Folders that may hold the clips, the first that is there."""

    labels: int = 309
    url: str = "https://www.robots.ox.ac.uk/~vgg/data/vggsound/"

    def read(self, folder: Path, *, partial: bool = False) -> Benchmark:
        """Read a folder; as for `read_benchmark`."""
        audio = _find_clips(self, folder, "clips")
        files = {file.stem: file for file in visible_files(audio, SUFFIXES | VIDEO_SUFFIXES)}
        rows = self._rows(folder / self.table)
        labels = sorted({label for _, label, _ in rows})
        if len(labels) != self.labels:
            raise UserError(
                f"{self.table} has {len(labels)} labels, and {self.title} has {self.labels}. Get "
                f"it again from {self.url}.",
                param="folder",
            )
        test = [(name, label) for name, label, split in rows if split == "test"]
        clips = tuple(
            Clip(name, files[name], name.rpartition("_")[0], 1, labels.index(label))
            for name, label in test
            if name in files
        )
        lacking = _lacking([], [name for name, _ in test if name not in files])
        _require(self.title, folder, lacking, clips, partial, self.url)
        return Benchmark(self.name, self.title, clips, tuple(labels), len(test), lacking)

    def _rows(self, table: Path) -> list[tuple[str, str, str]]:
        """Return the name of each clip's file, such as `ABC_000030`, its label and its split."""
        rows = []
        with open_text(table, newline="") as file:
            for number, cells in enumerate(csv.reader(file), start=1):
                if len(cells) != len(_VGGSOUND_CELLS) or not cells[1].strip().isdecimal():
                    raise UserError(
                        f"Line {number} of {table} is damaged: expected "
                        f"{', '.join(_VGGSOUND_CELLS)}, got {len(cells)} cells. Get it again from "
                        f"{self.url}.",
                        param="folder",
                    )
                video, start, label, split = (cell.strip() for cell in cells)
                rows.append((f"{video}_{int(start):06d}", label, split))
        return rows


_IMAGEHEAR = {
    **dict.fromkeys(("frog", "harmonica", "police"), 2),
    **dict.fromkeys(("accordion", "bass", "bells", "bird", "cat", "chicken", "cow", "cricket",
                     "dog", "flute", "gun", "lion", "piano", "sheep", "train", "trumpet",
                     "waterfall"), 3),
    **dict.fromkeys(("bongo", "car", "drums", "duck", "horse", "motorcycle", "people", "rain",
                     "saxophone"), 4),
    "guitar": 8,
}  # fmt: skip


@dataclass(frozen=True)
class ImageHearLayout:
    """Published layout of ImageHear: images in one folder, named by their label and a number."""

    name: str = "imagehear"
    title: str = "ImageHear"
    images: Mapping[str, int] = field(default_factory=_IMAGEHEAR.copy)
    """Images of each label."""

    url: str = "https://github.com/RoySheffer/im2wav"

    def read(self, folder: Path, *, partial: bool = False) -> Benchmark:
        """Read a folder; as for `read_benchmark`."""
        labels = sorted(self.images)
        every = [
            Clip(name, folder / name, name, 1, place)
            for place, label in enumerate(labels)
            for name in (f"{label}{number}.jpg" for number in range(1, self.images[label] + 1))
        ]
        clips = tuple(clip for clip in every if clip.path.is_file())
        if not clips:
            raise UserError(
                f"{folder} is no {self.title} as published: expected images such as {every[0].id}. "
                f"Get it from {self.url}, and name its folder Data/ImageHear.",
                param="folder",
            )
        missing = [clip.id for clip in every if clip not in clips]
        lacking = _lacking([], missing, what="images")
        _require(self.title, folder, lacking, clips, partial, self.url)
        return Benchmark(self.name, self.title, clips, tuple(labels), len(every), lacking)


LAYOUTS: dict[str, FoldLayout | CaptionLayout | VggSoundLayout | ImageHearLayout] = {
    each.name: each
    for each in (
        FoldLayout(
            name="esc50",
            title="ESC-50",
            table="meta/esc50.csv",
            columns=("filename", "fold", "target", "category", "src_file"),
            audio="audio",
            labels=50,
            fold_sizes=dict.fromkeys(range(1, 6), 400),
            url="https://github.com/karolpiczak/ESC-50",
        ),
        FoldLayout(
            name="us8k",
            title="UrbanSound8K",
            table="metadata/UrbanSound8K.csv",
            columns=("slice_file_name", "fold", "classID", "class", "fsID"),
            audio="audio/fold{fold}",
            labels=10,
            fold_sizes=dict(enumerate((873, 888, 925, 990, 936, 823, 838, 806, 816, 837), start=1)),
            url="https://urbansounddataset.weebly.com/urbansound8k.html",
        ),
        VggSoundLayout(),
        ImageHearLayout(),
        CaptionLayout(
            name="audiocaps",
            title="AudioCaps",
            table="test.csv",
            audio=("test", "audio"),
            clips=975,
            captions=5,
            url="https://github.com/cdjkim/audiocaps",
        ),
        CaptionLayout(
            name="clotho",
            title="Clotho",
            table="clotho_captions_evaluation.csv",
            audio=("evaluation", "audio"),
            clips=1045,
            captions=5,
            url="https://zenodo.org/records/4783391",
        ),
    )
}
"""Layouts by name."""


def read_benchmark(name: str, folder: str | Path, *, partial: bool = False) -> Benchmark:
    """Read the folder of a benchmark as published.

    Args:
        name: A name of `LAYOUTS`.
        folder: Top folder of the data set.
        partial: Whether to measure on the clips that are there, of a folder that is not complete.

    Returns:
        The clips, with official folds and labels, or with captions.

    Raises:
        UserError: If there is no such benchmark, the folder has another layout, or it is not
            complete; the message names what is missing.
    """
    if name not in LAYOUTS:
        raise UserError(
            f"Expected dataset to be one of {', '.join(LAYOUTS)}, got {name!r}.", param="dataset"
        )
    path = as_path(folder)
    if not path.is_dir():
        raise UserError(f"{folder} is not a folder.", param="folder")
    return LAYOUTS[name].read(path, partial=partial)


def _find_clips(layout: "CaptionLayout | VggSoundLayout", folder: Path, what: str) -> Path:
    """Return the folder of a layout's clips, which are beside its table."""
    found = next((folder / name for name in layout.audio if (folder / name).is_dir()), None)
    if found is None or not (folder / layout.table).is_file():
        raise UserError(
            f"{folder} is no {layout.title} as published: expected {layout.table} and a folder "
            f"{' or '.join(layout.audio)} of {what}. Get it from {layout.url}.",
            param="folder",
        )
    return found


def _lacking(short: Sequence[str], missing: Sequence[str], *, what: str = "audio files") -> str:
    """Describe the rows and files that are not there."""
    parts = list(short)
    if missing:
        named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        parts.append(f"{len(missing)} {what} are missing: {named}")
    return "; ".join(parts)


def _require(
    title: str, folder: Path, lacking: str, clips: Sequence[Clip], partial: bool, url: str
) -> None:
    if lacking and (not partial or not clips):
        measure = "Complete it, or give partial=True to measure on what is there."
        raise UserError(
            f"{title} in {folder} is not complete: {lacking}. "
            f"{measure if clips else f'Get it from {url}.'}",
            param="folder",
        )


def _read_clotho(table: Path, audio: Path) -> tuple[list[Clip], list[str]]:
    columns = ["file_name", *(f"caption_{number}" for number in range(1, 6))]
    clips, missing = [], []
    for row in published_records(table, columns, "Clotho"):
        name, *captions = (row[column] for column in columns)
        if (audio / name).is_file():
            captions = tuple(caption for caption in captions if caption)
            clips.append(Clip(name, audio / name, name, captions=captions))
        else:
            missing.append(name)
    return clips, missing


def _read_audiocaps(table: Path, audio: Path) -> tuple[list[Clip], list[str]]:
    captions: dict[str, list[str]] = {}
    paths: dict[str, Path | None] = {}
    for row in AudioCaps(table, audio):
        item = str(row.columns["item"])
        captions.setdefault(item, []).append(str(row.content["text"]))
        paths[item] = row.content.get("audio")
    clips = [
        Clip(item, path, item, captions=tuple(captions[item]))
        for item, path in paths.items()
        if path is not None
    ]
    return clips, [item for item, path in paths.items() if path is None]
