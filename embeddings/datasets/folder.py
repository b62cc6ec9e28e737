"""Folders of images, audio and captions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.base import Row, Source, decoded, walk
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files

CAPTION_SUFFIXES = frozenset({".txt", ".caption"})
"""Suffixes of the files with captions."""

_SUFFIXES: dict[Modality, frozenset[str]] = {
    "image": image_files.SUFFIXES,
    "audio": audio_files.SUFFIXES | audio_files.VIDEO_SUFFIXES,
    "text": CAPTION_SUFFIXES,
}


@dataclass(frozen=True)
class Folder(Source):
    """Folder in which files of one stem are one row: `dog.jpg`, `dog.wav` and `dog.txt`.

    There is one row per image if images are wanted, otherwise per audio file, sorted by name,
    subfolder by subfolder.
    """

    folder: Path
    wanted: frozenset[Modality]
    """Modalities of a row; image or audio is among them."""

    def __post_init__(self) -> None:
        if not self.wanted & {"image", "audio"}:
            raise UserError(
                f"{self.folder} is a folder: captions alone are read from a CSV, TSV or Parquet "
                "file."
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"source": "folder", "files": [self.folder.resolve().name]}

    def __iter__(self) -> Iterator[Row]:
        first: Modality = "image" if "image" in self.wanted else "audio"
        others = sorted(self.wanted - {first})
        is_empty = True
        for files in walk(self.folder):
            companions: dict[str, dict[str, Path]] = {}
            for path in files:
                for modality in others:
                    if path.suffix.lower() in _SUFFIXES[modality]:
                        companions.setdefault(path.stem, {}).setdefault(modality, path)
            for path in files:
                if path.suffix.lower() in _SUFFIXES[first]:
                    is_empty = False
                    yield self._row(path, first, others, companions.get(path.stem, {}))
        if is_empty:
            suffixes = ", ".join(sorted(_SUFFIXES[first]))
            raise UserError(f"{self.folder} holds no {first} ({suffixes}). Check the path.")

    def _row(
        self,
        path: Path,
        first: Modality,
        others: Sequence[Modality],
        companions: Mapping[str, Path],
    ) -> Row:
        name = path.relative_to(self.folder).as_posix()
        columns: dict[str, Any] = {"file": name}
        content: dict[Modality, Any] = {first: path}
        problem = None
        for modality in others:
            file = companions.get(modality)
            column = "caption" if modality == "text" else f"{modality}_file"
            columns[column] = None
            if file is None:
                problem = f"no {column.removesuffix('_file')} of that name beside it"
            elif modality == "text":
                try:
                    content["text"] = decoded(file.read_bytes()).strip()
                    columns["caption"] = content["text"]
                except OSError as error:
                    problem = f"{file.name} can't be read: {error.strerror or error}"
                except UserError as error:
                    problem = f"{file.name} can't be read: {error}"
            else:
                content[modality] = file
                columns[column] = file.relative_to(self.folder).as_posix()
        return Row(name, columns, content, problem)
