"""AudioCaps: captions of ten-second clips."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row, Source, walk
from clip2clap.embeddings.datasets.readers import PROBLEM, published_records
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_CLIP_SECONDS = 10
# Names that downloaders give to the files of a clip, the first one as published; AudioSet's has
# both times in seconds, or in milliseconds. Times are compared as numbers.
_NAMES = (
    "{video}_{start:g}",
    "Y{video}_{start:g}",
    "{video}_{start:g}_{end:g}",
    "Y{video}_{start:g}_{end:g}",
    "{video}_{start_ms:.0f}_{end_ms:.0f}",
    "Y{video}_{start_ms:.0f}_{end_ms:.0f}",
    "{video}_{start_ms:.0f}",
    "Y{video}_{start_ms:.0f}",
    "{id}",
    "{video}",
    "Y{video}",
)
# A name without its end, which is earlier where the video is over, and the id in yt-dlp's names.
_SHORTER = re.compile(r"(.+_\d+)_\d+|.+(?:\[|-)([\w-]{11})\]?")
_TIME = re.compile(r"(?<=_)0*(\d+)(?:\.(\d*?)0*)?(?=_|$)")


@dataclass(frozen=True)
class AudioCaps(Source):
    """AudioCaps (Kim et al., 2019): captions, with the clips' audio and frames if they are there.

    Files are named by YouTube id and start time, such as `r1nicOVtvkQ_130.wav`, by AudioSet's names
    with both times, such as `Yr1nicOVtvkQ_130.000_140.000.wav`, by AudioCaps' id, or by YouTube id
    alone. A folder of that name may hold several frames, of which the central one is used.
    """

    captions: Path
    """CSV file as published: audiocap_id, youtube_id, start_time, caption."""

    audio: Path | None = None
    """Folder of the clips' audio or videos."""

    frames: Path | None = None
    """Folder of the clips' frames."""

    @property
    def modalities(self) -> frozenset[Modality]:
        found: set[Modality] = {"text"}
        found |= {"audio"} if self.audio else set()
        found |= {"image"} if self.frames else set()
        return frozenset(found)

    @property
    def settings(self) -> dict[str, Any]:
        return {"source": "audiocaps", "files": [self.captions.name]}

    def __iter__(self) -> Iterator[Row]:
        folders: list[tuple[Modality, Path, dict[str, list[Path]]]] = []
        if self.audio:
            suffixes = audio_files.SUFFIXES | audio_files.VIDEO_SUFFIXES
            folders.append(("audio", self.audio, _by_clip(self.audio, suffixes)))
        if self.frames:
            folders.append(("image", self.frames, _by_clip(self.frames, image_files.SUFFIXES)))
        split = _SPLITS.get(self.captions.stem)
        for values in published_records(self.captions, _COLUMNS, "AudioCaps"):
            names = _names(values["audiocap_id"], values["youtube_id"], values["start_time"])
            columns = {
                "caption": values["caption"],
                "youtube_id": values["youtube_id"],
                "start_time": values["start_time"],
                # The five captions of a validation or test clip belong on one side of a split.
                "item": names[0],
                **({"split": split} if split else {}),
            }
            content: dict[Modality, Any] = {"text": values["caption"]}
            problem = values.get(PROBLEM)
            for modality, folder, found in folders:
                files = next((found[key] for key in map(_key, names) if key in found), None)
                if files is None:
                    there = next(iter(found), "none")
                    problem = f"no file named {names[0]} in {folder}, whose files are {there}, ..."
                else:
                    content[modality] = files[len(files) // 2]
            yield Row(values["audiocap_id"], columns, content, problem)


def _names(audiocap_id: str, video: str, start_time: str) -> list[str]:
    """Return the names that a clip's files may have."""
    audiocap_id = audiocap_id.removesuffix(".0")  # as pandas writes numbers of incomplete columns
    try:
        start = float(start_time)
    except ValueError:
        return [f"{video}_{start_time}", audiocap_id, video, f"Y{video}"]
    end = start + _CLIP_SECONDS
    times = {"start": start, "end": end, "start_ms": start * 1000, "end_ms": end * 1000}
    return [name.format(id=audiocap_id, video=video, **times) for name in _NAMES]


def _by_clip(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """Return the files of each clip: those named by it, and those in folders named by it."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found: dict[str, list[Path]] = {}
    for files in walk(folder):
        for path in files:
            if path.suffix.lower() in suffixes:
                for name in {path.stem, path.parent.name} - {folder.name}:
                    found.setdefault(_key(name), []).append(path)
    shorter = ((_SHORTER.fullmatch(key), paths) for key, paths in found.items())
    return {match[1] or match[2]: paths for match, paths in shorter if match} | found


def _key(name: str) -> str:
    """Return a file's name with the times in it as plain numbers: `a_030.00` as `a_30`."""
    return _TIME.sub(lambda time: time[1] + (f".{time[2]}" if time[2] else ""), name)
