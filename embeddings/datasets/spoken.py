"""Spoken captions of images: published layouts, and any table of audio, captions and images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import as_path
from clip2clap.embeddings.checkpoint import read_json
from clip2clap.embeddings.datasets.base import Url, caption_of, file_of
from clip2clap.embeddings.datasets.readers import PROBLEM, is_table, open_text, read_table

SpokenLayout = Literal[
    "flickr8k-audio", "spoken-coco", "spoken-objectnet", "places-audio", "spoken-table"
]

_PAGES: dict[SpokenLayout, str] = {
    "flickr8k-audio": "https://groups.csail.mit.edu/sls/downloads/flickraudio/",
    "spoken-coco": "https://wnhsu.github.io/image-to-speech-demo/",
    "spoken-objectnet": "https://groups.csail.mit.edu/sls/downloads/placesaudio/",
    "places-audio": "https://groups.csail.mit.edu/sls/downloads/placesaudio/",
}
# Folders that the images of a layout are unpacked to, beside its audio or above it.
_IMAGE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "objectnet-1.0/images"),
    *("coco", "mscoco", "COCO", ""),
)
_SPLITS = {"train": "train", "dev": "validation", "val": "validation", "test": "test"}
_NAMED = 3


@dataclass(frozen=True)
class SpokenCaption:
    """Spoken caption, with its text, its image, or both."""

    id: str
    audio: Path | bytes
    caption: str | None = None
    image: Path | bytes | None = None
    split: str | None = None
    item: str = ""
    """Image that the caption is of, or its text: captions of one item are held out together."""


@dataclass(frozen=True)
class SpokenCaptions:
    """Spoken captions of a data set."""

    layout: SpokenLayout
    rows: tuple[SpokenCaption, ...]
    lacking: str = ""
    """Files that are missing, in words; empty if all are there."""

    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Reason why a row of a table was left out, by its id."""

    def of_split(self, split: str) -> "SpokenCaptions":
        """Return the rows of a split: `train`, `validation` or `test`.

        Raises:
            UserError: If it has none.
        """
        rows = tuple(row for row in self.rows if row.split == split)
        if not rows:
            found = sorted({row.split for row in self.rows if row.split})
            raise UserError(
                f"There are no rows of the split {split!r}; there are "
                f"{', '.join(found) or 'no splits'}.",
                param="split",
            )
        return replace(self, rows=rows)


def read_spoken_captions(
    path: str | Path, *, image_dir: str | Path | None = None, partial: bool = False
) -> SpokenCaptions:
    """Read spoken captions of images.

    Args:
        path: Folder of the Flickr8k Audio Caption Corpus, SpokenCOCO, Spoken ObjectNet or Places
            Audio as published; or a CSV, TSV, JSON lines or Parquet file with the columns `audio`,
            and `caption` or `image` or both, perhaps `split`. A broken row of such a file, or one
            whose files are missing, is left out, and stands in `unreadable`.
        image_dir: Folder of the images; by default the usual ones beside the audio.
        partial: Leave out captions of a published layout whose files are missing.

    Returns:
        The captions, in the order of the files.

    Raises:
        UserError: If the folder has none of the layouts, files of it are missing, or a table has no
            row that can be read; the message names what was expected.
    """
    folder = as_path(path)
    images = None if image_dir is None else as_path(image_dir)
    if images is not None and not images.is_dir():
        raise UserError(f"{image_dir} is not a folder.", param="image_dir")
    if folder.is_file() and is_table(folder):
        return _read_table(folder, images)
    if not folder.is_dir():
        raise UserError(f"{path} is neither a folder nor a table.", param="data")
    for layout, find in _FINDERS.items():
        read = find(folder, images)
        if read is not None:
            return _checked(layout, folder, read, partial)
    raise UserError(
        f"{path} has no layout of spoken captions: expected the top folder of "
        f"{', '.join(_PAGES)} as published, or a CSV or JSON lines file with the columns audio, "
        "caption and image.",
        param="data",
    )


def _checked(
    layout: SpokenLayout, folder: Path, rows: Iterator[SpokenCaption], partial: bool
) -> SpokenCaptions:
    found = list(rows)
    missing: list[str] = []
    there: list[SpokenCaption] = []
    known: dict[Path, bool] = {}
    for row in found:
        files = [each for each in (row.audio, row.image) if isinstance(each, Path)]
        absent = [str(each) for each in files if not known.setdefault(each, each.is_file())]
        missing += absent
        if not absent:
            there.append(row)
    names = list(dict.fromkeys(missing))
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    lacking = f"{len(names)} files are missing: {listed}" if names else ""
    if not found:
        raise UserError(f"{folder} has no spoken captions.", param="data")
    if lacking and (not partial or not there):
        raise UserError(
            f"{folder} is not complete: {lacking}. Get them from {_PAGES[layout]}. Give "
            "image_dir=... if the images are elsewhere, or partial=True to leave these rows out.",
            param="data",
        )
    return SpokenCaptions(layout, tuple(there), lacking)


def _images_of(folder: Path, images: Path | None, sample: str) -> Path:
    """Return the folder that a sample image is in, or the first usual one."""
    if images is not None:
        return images
    places = [top / name for top in (folder, folder.parent) for name in _IMAGE_FOLDERS]
    return next((place for place in places if (place / sample).is_file()), places[0])


def _flickr8k(folder: Path, images: Path | None) -> Iterator[SpokenCaption] | None:
    places = (folder, folder / "flickr_audio")
    audio = next((each for each in places if (each / "wav2capt.txt").is_file()), None)
    if audio is None:
        return None

    def lines(*names: str) -> list[list[str]]:
        tops = (folder, folder / "Flickr8k_text", folder.parent, folder.parent / "Flickr8k_text")
        file = next((top / name for name in names for top in tops if (top / name).is_file()), None)
        if file is None:
            return []
        with open_text(file, newline="") as text:
            return [line.rstrip("\r\n").split("\t") for line in text if line.strip()]

    captions = {row[0]: row[1] for row in lines("Flickr8k.token.txt") if len(row) == 2}
    splits = {
        row[0].strip(): _SPLITS[name]
        for name in ("train", "dev", "test")
        for row in lines(f"Flickr_8k.{name}Images.txt")
    }
    with open_text(audio / "wav2capt.txt", newline="") as text:
        named = [line.split() for line in text if line.strip()]
    damaged = [cells for cells in named if len(cells) != 3]
    if damaged:
        raise UserError(
            f"A line of {audio / 'wav2capt.txt'} is damaged: expected file, image and number, got "
            f"{one_line(' '.join(damaged[0]))}.",
            param="data",
        )
    top = _images_of(folder, images, named[0][1]) if named else folder
    return (
        SpokenCaption(
            id=wav,
            audio=audio / "wavs" / wav,
            caption=captions.get(f"{image}{number}"),
            image=top / image,
            split=splits.get(image),
            item=image,
        )
        for wav, image, number in named
        # The published test has images of the split files alone.
        if not splits or image in splits
    )


def _spoken_coco(folder: Path, images: Path | None) -> Iterator[SpokenCaption] | None:
    top = next((t for t in (folder, folder / "SpokenCOCO") if _coco_files(t)), None)
    if top is None:
        return None
    files = _coco_files(top)

    def rows() -> Iterator[SpokenCaption]:
        place = None
        for file, split in files:
            for entry in _entries(file, ("image", "captions")):
                place = place or _images_of(folder, images, entry["image"])
                for caption in entry["captions"]:
                    yield SpokenCaption(
                        id=str(caption["uttid"]),
                        audio=top / str(caption["wav"]),
                        # The published captions are capitals, which a CLIP takes as lower case.
                        caption=caption_of(caption.get("text")),
                        image=place / str(entry["image"]),
                        split=split,
                        item=str(entry["image"]),
                    )

    return rows()


def _coco_files(top: Path) -> list[tuple[Path, str]]:
    """Return Karpathy's splits if they are there, else the published train and val."""
    for suffix in ("_karpathy", ""):
        files = [
            (top / f"SpokenCOCO_{name}{suffix}.json", _SPLITS[name])
            for name in ("train", "val", "test")
        ]
        found = [(file, split) for file, split in files if file.is_file()]
        if found:
            return found
    return []


def _objectnet(folder: Path, images: Path | None) -> Iterator[SpokenCaption] | None:
    top = next(
        (
            each
            for each in (folder, folder / "Spoken-ObjectNet-50k")
            if any((each / "metadata").glob("SON-*.json"))
        ),
        None,
    )
    if top is None:
        return None
    names = {name: f"metadata/SON-{name}.json" for name in ("train", "val", "test")}
    return _places_rows(folder, top, images, names)


def _places(folder: Path, images: Path | None) -> Iterator[SpokenCaption] | None:
    names = {
        "train": "metadata/train.json",
        "val": "metadata/val.json",
        "test": "metadata/test_unseen_2020.json",
    }
    if not all((folder / names[name]).is_file() for name in ("train", "val")):
        return None
    return _places_rows(folder, folder, images, names)


def _places_rows(
    folder: Path, top: Path, images: Path | None, names: dict[str, str]
) -> Iterator[SpokenCaption]:
    """Yield the rows of the layout that Places Audio and Spoken ObjectNet share."""
    place = None
    for name, file in names.items():
        if not (top / file).is_file():
            continue
        for entry in _entries(top / file, ("wav", "image")):
            wav = PurePosixPath(str(entry["wav"]))
            place = place or _images_of(folder, images, str(entry["image"]))
            audio = top / wav if (top / wav).is_file() else top / "wavs" / wav
            yield SpokenCaption(
                id=str(entry.get("uttid", wav)),
                audio=audio,
                caption=caption_of(entry.get("text") or entry.get("asr_text")),
                image=place / str(entry["image"]),
                split=_SPLITS[name],
                item=str(entry["image"]),
            )


def _entries(file: Path, expected: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a published JSON file."""
    data = read_json(file).get("data")
    whole = isinstance(data, list) and all(
        isinstance(entry, dict) and all(name in entry for name in expected) for entry in data
    )
    if not whole:
        raise UserError(
            f"{file} is not as published: expected a list `data` of entries with "
            f"{' and '.join(expected)}.",
            param="data",
        )
    yield from data or []


def _read_table(file: Path, images: Path | None) -> SpokenCaptions:
    columns, records = read_table(file)
    names = {name.strip().lower(): name for name in columns}
    kinds = {
        "audio": ("audio", "wav", "audio_path", "path"),
        "caption": ("caption", "text", "sentence"),
        "image": ("image", "image_path"),
        "item": ("item",),
        "split": ("split",),
    }
    known = {
        kind: next((names[name] for name in own if name in names), None)
        for kind, own in kinds.items()
    }
    if known["audio"] is None or (known["caption"] is None and known["image"] is None):
        raise UserError(
            f"{file} has the columns {one_line(', '.join(columns))}: expected audio, and caption "
            "or image or both.",
            param="data",
        )
    rows: list[SpokenCaption] = []
    unreadable: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        row_id = f"{file.stem}:{number}"
        try:
            if PROBLEM in record:
                raise UserError(str(record[PROBLEM]))
            cells = {kind: record.get(name) for kind, name in known.items() if name is not None}
            rows.append(_table_row(row_id, cells, file.parent, images))
        except UserError as error:
            unreadable[row_id] = f"Row {number} of {file}: {error}"
    if not rows:
        first = next(iter(unreadable.values()), "it has no rows.")
        raise UserError(f"{file} has no spoken captions: {first}", param="data")
    return SpokenCaptions("spoken-table", tuple(rows), unreadable=unreadable)


def _table_row(
    row_id: str, cells: Mapping[str, Any], folder: Path, images: Path | None
) -> SpokenCaption:
    """Return the caption of a table's row from its cells by kind."""
    audio = _local(file_of(cells["audio"], folder))
    image = _local(file_of(cells.get("image"), images or folder))
    text = caption_of(cells.get("caption"))
    if audio is None:
        raise UserError("no audio")
    if image is None and not (text or "").strip():
        raise UserError("neither a caption nor an image")
    item = cells.get("item") or image
    return SpokenCaption(
        id=row_id,
        audio=audio,
        caption=text or None,
        image=image,
        split=_table_split((caption_of(cells.get("split")) or "").lower()),
        item=str(item if isinstance(item, Path | str) else text or row_id),
    )


def _table_split(split: str) -> str | None:
    known = {**_SPLITS, "validation": "validation", "": None}
    if split not in known:
        raise UserError(
            f"expected the split to be train, validation or test, got {one_line(split)!r}"
        )
    return known[split]


def _local(file: Any) -> Any:
    if isinstance(file, Url):
        raise UserError(f"{file} is an address; download it, and name the file.")
    if isinstance(file, Path) and not file.is_file():
        raise UserError(f"{file} is missing")
    return file


_FINDERS: dict[SpokenLayout, Callable[[Path, Path | None], Iterator[SpokenCaption] | None]] = {
    "flickr8k-audio": _flickr8k,
    "spoken-coco": _spoken_coco,
    "spoken-objectnet": _objectnet,
    "places-audio": _places,
}
