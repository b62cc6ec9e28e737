"""Data sets of images and audio to evaluate pipelines on.

Two published protocols are such folders. ImageHear (Sheffer and Adi 2023, arXiv 2211.03089) is a
folder of images per class, without audio. VGGSound's test set (Chen et al. 2020, arXiv 2004.14368)
is a frame of each clip beside the clip's own audio.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, visible_files, visible_folders
from clip2clap.core.math import unit_norm
from clip2clap.evaluation.rows import EvaluatedRows
from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES
from clip2clap.metrics.classification import AUDIO_PROMPT
from clip2clap.training.pairs import Pairs

Modality = Literal["image", "audio"]
Protocol = Literal["imagehear", "vggsound", "images", "pairs", "classes", "recordings", "table"]

_SUFFIXES = {"image": IMAGE_SUFFIXES, "audio": AUDIO_SUFFIXES}
_NAMES = {"image": "images", "audio": "audio files"}
_PARAMS = {"image": "images", "audio": "recordings"}


@dataclass(frozen=True)
class DatasetItem:
    """Pipeline input, or a real file that generated ones are compared with, and its metadata.

    Attributes:
        name: Path in the folder, without the suffix; or id in the table.
        path: File; None where a table holds its embedding alone.
        label: Class: the name of its folder.
        text: Description of audio: the text file of an image's name, or the class's prompt.
        reference: Its own recording, or a recording's own image.
        group: Source of a table's row, where several rows may come from one.
    """

    name: str
    path: Path | None = None
    label: str | None = None
    text: str | None = None
    reference: Path | None = None
    group: str | None = None


@dataclass(frozen=True)
class EvaluationDataset:
    """Inputs of a pipeline, and real files of the other modality.

    Attributes:
        protocol: Protocol; see `read_image_dataset` and `read_audio_dataset`, or `table`.
        items: Inputs, in order of their names or of the table.
        references: Real files of the same classes; may be empty.
        embeddings: Embeddings of a table's recordings and their own images, unit norm.
    """

    facts: ClassVar[tuple[str, ...]] = ("name", "label")
    protocol: Protocol
    items: list[DatasetItem]
    references: list[DatasetItem]
    embeddings: Pairs | None = field(default=None, repr=False)

    @property
    def labels(self) -> list[str]:
        """Classes in alphabetical order; empty if items have none."""
        return sorted({item.label for item in self.items if item.label is not None})

    def fingerprint(self) -> str:
        """Return a hash of the items and their metadata."""
        known = ["\t".join(str(getattr(item, fact)) for fact in self.facts) for item in self.items]
        digest = hashlib.blake2b(os.fsencode("\n".join(known)), digest_size=8)
        if self.embeddings is not None:
            for side in (self.embeddings.source, self.embeddings.target):
                digest.update(side.contiguous().numpy().tobytes())
        return digest.hexdigest()


class ImageDataset(EvaluationDataset):
    """Images to generate audio from, and real recordings of the same classes."""

    facts = ("name", "label", "text")


class AudioDataset(EvaluationDataset):
    """Recordings to generate images from, and real images of the same classes."""


def read_image_dataset(images: str | Path, recordings: str | Path | None = None) -> ImageDataset:
    """Read images with their labels, captions and recordings from folders.

    An image's label is the name of its folder, with spaces for underscores; a text file of its
    name beside it is its caption. Its own recording has its name too, beside it or at the same
    place under `recordings`. The protocol is `vggsound` if each image has its own recording,
    `imagehear` if folders name classes, otherwise `images`.

    Args:
        images: Folder of images.
        recordings: Folder of audio. If it does not hold the images' own, all of it is the
            reference, and its folders name the classes.

    Raises:
        UserError: If a folder holds fewer than two files, two images share a name, or only some
            have a label or a recording.

    Examples:
        >>> read_image_dataset("classes", "classes-audio").labels
        ['dog', 'sea', 'train']
    """
    paired, items, references = _read(images, recordings, "image")
    named = items[0].label is not None
    protocol = "vggsound" if paired else "imagehear" if named else "images"
    return ImageDataset(protocol, items, references)


def read_audio_dataset(recordings: str | Path, images: str | Path | None = None) -> AudioDataset:
    """Read recordings with their labels and images from folders.

    A recording's label is the name of its folder, with spaces for underscores. Its own image has
    its name, beside it or at the same place under `images`. The protocol is `pairs` if each
    recording has its own image, `classes` if folders name classes, otherwise `recordings`.

    Args:
        recordings: Folder of audio.
        images: Folder of images. If it does not hold the recordings' own, all of it is the
            reference, and its folders name the classes.

    Raises:
        UserError: If a folder holds fewer than two files, two recordings share a name, or only
            some have a label or an image.

    Examples:
        >>> read_audio_dataset("classes-audio", "classes").protocol
        'pairs'
    """
    paired, items, references = _read(recordings, images, "audio")
    named = items[0].label is not None
    protocol = "pairs" if paired else "classes" if named else "recordings"
    return AudioDataset(protocol, items, references)


def audio_dataset_from_rows(rows: EvaluatedRows) -> AudioDataset:
    """Return a table's rows, pairs of a recording's and its image's embedding, as an audio dataset.

    Raises:
        UserError: If the columns hold other modalities.
    """
    pairs = rows.pairs
    for space, column, param, modality in (
        (pairs.source_space, pairs.source_column, "source", "audio"),
        (pairs.target_space, pairs.target_column, "target", "image"),
    ):
        if space is not None and space.modality != modality:
            raise UserError(
                f"The table's column {column!r} holds embeddings of {space.modality}, not of "
                f"{modality}. Choose another {param} column, or a folder of recordings.",
                param=param,
            )
    items = [
        DatasetItem(
            name=rows.ids[at],
            label=None if rows.labels is None else rows.labels[at],
            group=None if pairs.items is None else pairs.items[at],
        )
        for at in range(len(pairs))
    ]
    embeddings = replace(
        pairs, source=unit_norm(pairs.source.float()), target=unit_norm(pairs.target.float())
    )
    return AudioDataset("table", items, [], embeddings)


def _read(
    folder: str | Path, others: str | Path | None, modality: Modality
) -> tuple[bool, list[DatasetItem], list[DatasetItem]]:
    """Read a folder's items and references, and whether each item has its own reference."""
    folder = as_path(folder)
    others = None if others is None else as_path(others)
    other: Modality = "audio" if modality == "image" else "image"
    items = [_item(path, folder, others, modality) for path in _find_files(folder, modality)]
    _check_complete(folder, items, modality)
    own = [
        DatasetItem(item.name, item.reference, item.label, item.text)
        for item in items
        if item.reference is not None
    ]
    if own or others is None:
        return bool(own), items, own
    references = []
    for path in _find_files(others, other):
        label = _label_of(path, others)
        text = None if label is None or other == "image" else AUDIO_PROMPT.format(label)
        references.append(DatasetItem(path.stem, path, label, text))
    return False, items, references


def _item(path: Path, folder: Path, others: Path | None, modality: Modality) -> DatasetItem:
    label, text = _label_of(path, folder), None
    if modality == "image":
        caption = path.with_suffix(".txt")
        text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else None
        text = text or (None if label is None else AUDIO_PROMPT.format(label))
    suffixes = sorted(_SUFFIXES["audio" if modality == "image" else "image"])
    places = [path, *([] if others is None else [others / path.relative_to(folder)])]
    partners = (place.with_suffix(suffix) for place in places for suffix in suffixes)
    return DatasetItem(
        name=path.relative_to(folder).with_suffix("").as_posix(),
        path=path,
        label=label,
        text=text,
        reference=next((partner for partner in partners if partner.is_file()), None),
    )


def _find_files(folder: Path, modality: Modality) -> list[Path]:
    """Find a modality's files in a folder and its subfolders, sorted by path."""
    names, param, suffixes = _NAMES[modality], _PARAMS[modality], _SUFFIXES[modality]
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Expected a folder of {names}.", param=param)
    inside = visible_folders(folder)
    found = sorted(file for each in inside for file in visible_files(each, suffixes))
    if len(found) < 2:
        raise UserError(
            f"Expected at least two {names} in {folder}, got {len(found)} "
            f"({', '.join(sorted(suffixes))}).",
            param=param,
        )
    return found


def _label_of(path: Path, folder: Path) -> str | None:
    """Return the class that a file's subfolder names; None for a file in `folder` itself."""
    return None if path.parent == folder else path.parent.name.replace("_", " ").strip()


def _check_complete(folder: Path, items: Sequence[DatasetItem], modality: Modality) -> None:
    """Raise an error if two items share a name, or only some have a label or a reference."""
    names, param = _NAMES[modality], _PARAMS[modality]
    (name, times), *_ = Counter(item.name for item in items).most_common(1)
    if times > 1:
        raise UserError(f"{times} {names} in {folder} are called {name}. Rename them.", param=param)
    for what, known in (
        ("label (a subfolder named after a class)", [item.label for item in items]),
        ("recording" if modality == "image" else "image", [item.reference for item in items]),
    ):
        count = sum(one is not None for one in known)
        if 0 < count < len(items):
            raise UserError(
                f"Only {count} of {len(items)} {names} in {folder} have a {what}. Expected one "
                "for each, or for none.",
                param=param,
            )
