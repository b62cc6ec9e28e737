"""Photographs to make sounds of, with what is known of how they should sound.

Two published protocols are such folders. ImageHear (Sheffer and Adi 2023, arXiv 2211.03089) is a
folder of stills for each class, without sound. VGGSound's test set (Chen et al. 2020, arXiv
2004.14368) is a frame of each clip beside the clip's own sound.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError
from clip2clap.media.audio import SUFFIXES as SOUND_SUFFIXES
from clip2clap.media.images import SUFFIXES as PICTURE_SUFFIXES

Protocol = Literal["imagehear", "vggsound", "photographs"]


@dataclass(frozen=True)
class ImageItem:
    """One photograph."""

    name: str
    """Its path in the folder, without the suffix."""

    photograph: Path
    """Its file."""

    label: str | None = None
    """The kind of thing it shows: the name of the folder it lies in."""

    caption: str | None = None
    """What its sound is like in words: the text file of its name."""

    recording: Path | None = None
    """Its own sound, if there is one."""

    @property
    def words(self) -> str | None:
        """What to hold its sound against in words."""
        return self.caption or (None if self.label is None else words_for(self.label))


@dataclass(frozen=True)
class Recording:
    """A real sound to hold made ones against."""

    path: Path
    """Its file."""

    label: str | None
    """The kind of thing that sounds."""

    words: str | None
    """What it is like in words."""


@dataclass(frozen=True)
class ImageDataset:
    """Photographs, and real recordings of the same things."""

    protocol: Protocol
    """`vggsound` if each photograph has its own recording, `imagehear` if folders name classes,
    otherwise `photographs`."""

    image_items: list[ImageItem]
    """In order of their names."""

    recordings: list[Recording]
    """What made sounds are held against as a whole; may be empty."""

    @property
    def labels(self) -> list[str]:
        """The kinds there are, in alphabetical order; none if photographs have no labels."""
        return sorted(
            {image_item.label for image_item in self.image_items if image_item.label is not None}
        )

    def fingerprint(self) -> str:
        """Give a name for these photographs and what is known of them."""
        known = [
            f"{image_item.name}\t{image_item.label}\t{image_item.words}"
            for image_item in self.image_items
        ]
        return hashlib.blake2b("\n".join(known).encode(), digest_size=8).hexdigest()


def words_for(label: str) -> str:
    """Say in words what a kind of thing sounds like."""
    return f"the sound of a {label}"


def read_image_dataset(images: str | Path, recordings: str | Path | None = None) -> ImageDataset:
    """Find photographs, their labels, captions and recordings.

    A photograph in a folder of its class bears the folder's name as label, with spaces for
    underscores; a text file of its name beside it is its caption. Its own recording bears its name
    too, beside it or at the same place under `recordings`.

    Args:
        images: The folder of photographs.
        recordings: A folder of sounds. If they are not the photographs' own, all are taken, and
            the folders in it name their classes.

    Returns:
        Photographs with all that was found.

    Raises:
        UserError: If there are no photographs or no sounds in a folder, two photographs share a
            name, or only some have a label or a recording.
    """
    images = Path(images).expanduser()
    sounds = None if recordings is None else Path(recordings).expanduser()
    image_items = [
        _still(path, images, sounds) for path in find_files(images, PICTURE_SUFFIXES, "picture")
    ]
    check_complete(
        images,
        "photographs",
        [image_item.name for image_item in image_items],
        [image_item.label for image_item in image_items],
        [image_item.recording for image_item in image_items],
        "recording",
    )
    if all(image_item.recording is not None for image_item in image_items):
        own = [
            Recording(image_item.recording, image_item.label, image_item.words)
            for image_item in image_items
            if image_item.recording is not None
        ]
        return ImageDataset("vggsound", image_items, own)
    known = []
    if sounds is not None:
        for path in find_files(sounds, SOUND_SUFFIXES, "sound"):
            label = label_of(path, sounds)
            known.append(Recording(path, label, None if label is None else words_for(label)))
    protocol = "imagehear" if image_items[0].label is not None else "photographs"
    return ImageDataset(protocol, image_items, known)


def find_files(folder: Path, suffixes: frozenset[str], what: str) -> list[Path]:
    """Find the files of a kind in a folder and in those in it, in the order of their paths.

    Args:
        folder: Where to look.
        suffixes: What their names end in, in lower case.
        what: What to call one of them.

    Raises:
        UserError: If it is no folder, or there are fewer than two.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Give the folder of {what}s.")
    found = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file()
    )
    if len(found) < 2:
        raise UserError(
            f"Expected at least two {what}s in {folder}, got {len(found)} "
            f"({', '.join(sorted(suffixes))})."
        )
    return found


def _still(path: Path, images: Path, sounds: Path | None) -> ImageItem:
    name = path.relative_to(images).with_suffix("").as_posix()
    caption = path.with_suffix(".txt")
    words = caption.read_text(encoding="utf-8").strip() if caption.is_file() else None
    recording = find_partner(path, images, sounds, SOUND_SUFFIXES)
    return ImageItem(name, path, label_of(path, images), words or None, recording)


def label_of(path: Path, folder: Path) -> str | None:
    """Give the kind that a file's folder is named after; None for what lies in `folder` itself."""
    return None if path.parent == folder else path.parent.name.replace("_", " ").strip()


def find_partner(
    path: Path, folder: Path, other: Path | None, suffixes: frozenset[str]
) -> Path | None:
    """Find the file of another kind that bears a file's name.

    Args:
        path: The file, in `folder`.
        folder: Where files of its kind lie.
        other: A folder in which the partner may lie at the same place, if not beside it.
        suffixes: What the partner's name ends in.
    """
    places = [path, *([] if other is None else [other / path.relative_to(folder)])]
    found = (place.with_suffix(suffix) for place in places for suffix in sorted(suffixes))
    return next((place for place in found if place.is_file()), None)


def check_complete(
    folder: Path,
    what: str,
    names: Sequence[str],
    labels: Sequence[str | None],
    partners: Sequence[Path | None],
    partner: str,
) -> None:
    """Refuse files of which two share a name, or only some have a label or a partner.

    Args:
        folder: Where they lie.
        what: What they are called, such as `photographs`.
        names: Their names, at least one.
        labels: Their labels.
        partners: Their partners.
        partner: What a partner is called.

    Raises:
        UserError: As said.
    """
    (name, times), *_ = Counter(names).most_common(1)
    if times > 1:
        raise UserError(f"{times} {what} in {folder} are called {name}. Rename them.")
    for having, known in (("label (lie in a folder of a class)", labels), (partner, partners)):
        count = sum(one is not None for one in known)
        if 0 < count < len(names):
            raise UserError(
                f"Only {count} of {len(names)} {what} in {folder} have a {having}. Give each one, "
                "or none."
            )
