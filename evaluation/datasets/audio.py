"""Recordings to make pictures of, with what is known of how they should look."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.evaluation.datasets.images import check_complete, find_files, find_partner, label_of
from clip2clap.evaluation.rows import EvaluatedRows
from clip2clap.media.audio import SUFFIXES as SOUND_SUFFIXES
from clip2clap.media.images import SUFFIXES as PICTURE_SUFFIXES

TakesProtocol = Literal["pairs", "classes", "recordings", "table"]


@dataclass(frozen=True)
class AudioItem:
    """One recording."""

    name: str
    """Its path in the folder, without the suffix; or its id in the table."""

    recording: Path | None = None
    """Its file; None where a table holds its vector alone."""

    label: str | None = None
    """The kind of thing that sounds."""

    photograph: Path | None = None
    """Its own picture, if there is one."""

    item: str | None = None
    """What it comes from, where several takes may come from one thing."""


@dataclass(frozen=True)
class Photograph:
    """A real picture to hold made ones against."""

    path: Path
    """Its file."""

    label: str | None
    """The kind of thing it shows."""


@dataclass(frozen=True)
class TakeVectors:
    """What a table knows of its takes, row by row."""

    audio_embeds: Tensor
    """Of the recordings, shape (n, d), unit norm."""

    image_embeds: Tensor
    """Of their own pictures, shape (n, d), unit norm."""

    audio_space: EmbeddingSpace | None
    """Where the former live."""

    image_space: EmbeddingSpace | None
    """Where the latter live."""


@dataclass(frozen=True)
class AudioDataset:
    """Recordings, and real pictures of the same things."""

    protocol: TakesProtocol
    """`table`; of a folder `pairs` if each recording has its own picture, `classes` if folders name
    classes, otherwise `recordings`."""

    audio_items: list[AudioItem]
    """In order of their names, or of the table."""

    photographs: list[Photograph]
    """What made pictures are held against as a whole; may be empty."""

    vectors: TakeVectors | None = field(default=None, repr=False)
    """Of a table."""

    @property
    def labels(self) -> list[str]:
        """The kinds there are, in alphabetical order; none if recordings have no labels."""
        return sorted(
            {audio_item.label for audio_item in self.audio_items if audio_item.label is not None}
        )

    def fingerprint(self) -> str:
        """Give a name for these recordings and what is known of them."""
        known = [f"{audio_item.name}\t{audio_item.label}" for audio_item in self.audio_items]
        digest = hashlib.blake2b("\n".join(known).encode(), digest_size=8)
        if self.vectors is not None:
            for side in (self.vectors.audio_embeds, self.vectors.image_embeds):
                digest.update(side.contiguous().numpy().tobytes())
        return digest.hexdigest()


def read_audio_dataset(recordings: str | Path, images: str | Path | None = None) -> AudioDataset:
    """Find recordings, their labels and their pictures.

    A recording in a folder of its class bears the folder's name as label, with spaces for
    underscores. Its own picture bears its name, beside it or at the same place under `images`.

    Args:
        recordings: The folder of recordings.
        images: A folder of pictures. If they are not the recordings' own, all are taken, and the
            folders in it name their classes.

    Returns:
        Recordings with all that was found.

    Raises:
        UserError: If there are no recordings or no pictures in a folder, two recordings share a
            name, or only some have a label or a picture.
    """
    recordings = Path(recordings).expanduser()
    pictures = None if images is None else Path(images).expanduser()
    sounds = find_files(recordings, SOUND_SUFFIXES, "sound")
    audio_items = [_take(path, recordings, pictures) for path in sounds]
    check_complete(
        recordings,
        "recordings",
        [audio_item.name for audio_item in audio_items],
        [audio_item.label for audio_item in audio_items],
        [audio_item.photograph for audio_item in audio_items],
        "picture",
    )
    if all(audio_item.photograph is not None for audio_item in audio_items):
        own = [
            Photograph(audio_item.photograph, audio_item.label)
            for audio_item in audio_items
            if audio_item.photograph is not None
        ]
        return AudioDataset("pairs", audio_items, own)
    known = []
    if pictures is not None:
        known = [
            Photograph(path, label_of(path, pictures))
            for path in find_files(pictures, PICTURE_SUFFIXES, "picture")
        ]
    return AudioDataset(
        "recordings" if audio_items[0].label is None else "classes", audio_items, known
    )


def audio_dataset_of_rows(rows: EvaluatedRows) -> AudioDataset:
    """Take the recordings of a table's rows, of which there are vectors alone.

    Args:
        rows: Pairs of a recording and its picture.

    Returns:
        A take a row.

    Raises:
        UserError: If the pairs are not of sounds and pictures.
    """
    pairs = rows.pairs
    for space, column, option, modality, what in (
        (pairs.source_space, pairs.source_column, "--source", "audio", "sounds"),
        (pairs.target_space, pairs.target_column, "--target", "image", "pictures"),
    ):
        if space is not None and space.modality != modality:
            raise UserError(
                f"The table's column {column!r} holds vectors of {space.modality}, not of {what}. "
                f"Name a column of {what} with {option}, or make pictures of a folder with "
                "--recordings."
            )
    places = range(len(pairs))
    audio_items = [
        AudioItem(
            name=rows.ids[at],
            label=None if rows.labels is None else rows.labels[at],
            item=None if pairs.items is None else pairs.items[at],
        )
        for at in places
    ]
    vectors = TakeVectors(
        unit_norm(pairs.source.float()),
        unit_norm(pairs.target.float()),
        pairs.source_space,
        pairs.target_space,
    )
    return AudioDataset("table", audio_items, [], vectors)


def _take(path: Path, recordings: Path, pictures: Path | None) -> AudioItem:
    name = path.relative_to(recordings).with_suffix("").as_posix()
    photograph = find_partner(path, recordings, pictures, PICTURE_SUFFIXES)
    return AudioItem(name, path, label_of(path, recordings), photograph)
