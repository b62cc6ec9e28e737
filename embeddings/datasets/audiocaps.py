"""AudioCaps: captions of ten-second clips."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row, Source, published_records, walk
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class AudioCaps(Source):
    """AudioCaps (Kim et al., 2019): captions, with the clips' audio and frames if they are there.

    Files are named by YouTube id and start time, such as `r1nicOVtvkQ_130.wav`. A folder of that
    name may hold several frames, of which the central one is used.
    """

    captions: Path
    """CSV file as published: audiocap_id, youtube_id, start_time, caption."""

    audio: Path | None = None
    """Folder of the clips' audio."""

    frames: Path | None = None
    """Folder of the clips' frames."""

    @property
    def modalities(self) -> frozenset[Modality]:
        """Captions, and the modalities of the folders."""
        found: set[Modality] = {"text"}
        found |= {"audio"} if self.audio else set()
        found |= {"image"} if self.frames else set()
        return frozenset(found)

    @property
    def settings(self) -> dict[str, Any]:
        """Name of the file."""
        return {"source": "audiocaps", "files": [self.captions.name]}

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of the file."""
        folders: list[tuple[Modality, Path, dict[str, list[Path]]]] = []
        if self.audio:
            folders.append(("audio", self.audio, _by_clip(self.audio, audio_files.SUFFIXES)))
        if self.frames:
            folders.append(("image", self.frames, _by_clip(self.frames, image_files.SUFFIXES)))
        split = _SPLITS.get(self.captions.stem)
        for values in published_records(self.captions, ",", _COLUMNS, "AudioCaps"):
            clip = f"{values['youtube_id']}_{values['start_time']}"
            columns = {
                "caption": values["caption"],
                "youtube_id": values["youtube_id"],
                "start_time": values["start_time"],
                # The five captions of a validation or test clip belong on one side of a split.
                "item": clip,
                **({"split": split} if split else {}),
            }
            content: dict[Modality, Any] = {"text": values["caption"]}
            problem = None
            for modality, folder, found in folders:
                files = found.get(clip)
                if files is None:
                    problem = f"no file named {clip} in {folder}"
                else:
                    content[modality] = files[len(files) // 2]
            yield Row(values["audiocap_id"], columns, content, problem)


def _by_clip(folder: Path, suffixes: frozenset[str]) -> dict[str, list[Path]]:
    """Return the files of each clip: those named by it, and those in folders named by it."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}.")
    found: dict[str, list[Path]] = {}
    for files in walk(folder):
        for path in files:
            if path.suffix.lower() in suffixes:
                for name in {path.stem, path.parent.name}:
                    found.setdefault(name, []).append(path)
    return found
