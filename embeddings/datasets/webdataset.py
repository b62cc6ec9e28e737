"""WebDataset tar shards."""

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.datasets.base import Row, Source, file_stem
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files


@dataclass(frozen=True)
class WebDataset(Source):
    """Tar shards as `img2dataset` writes them: files of one name are one row.

    A caption is the `txt` file, or the value of "caption" in the `json` file.
    """

    format = "webdataset"
    files: tuple[Path, ...]
    wanted: frozenset[Modality]

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows shard by shard, one row in memory at a time."""
        for path in self.files:
            try:
                with tarfile.open(path, "r|*") as tar:
                    for key, members in _samples(tar):
                        yield self._row(f"{file_stem(path)}/{key}", members)
            except (tarfile.TarError, OSError, EOFError) as error:
                raise UserError(
                    f"{path} can't be read as a tar file ({one_line(error)}). Download it again; "
                    "rows embedded so far are safe."
                ) from error

    def _row(self, row_id: str, members: Mapping[str, bytes]) -> Row:
        metadata: dict[str, Any] = {}
        if "json" in members:
            try:
                metadata = json.loads(members["json"])
            except ValueError:
                return Row(row_id, self._columns(row_id, None, {}), {}, "its json is damaged")
        caption = metadata.get("caption")
        if "txt" in members:
            caption = members["txt"].decode("utf-8", errors="surrogateescape").strip()
        content: dict[Modality, Any] = {
            "image": _file(members, image_files.SUFFIXES),
            "audio": _file(members, audio_files.SUFFIXES),
            "text": caption,
        }
        columns = self._columns(row_id, caption, metadata)
        return Row(row_id, columns, {m: v for m, v in content.items() if m in self.wanted})

    def _columns(
        self, row_id: str, caption: str | None, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        captioned = {"caption": caption} if "text" in self.wanted else {}
        return {**captioned, "file": row_id, "url": metadata.get("url")}


def _file(members: Mapping[str, bytes], suffixes: frozenset[str]) -> bytes | None:
    return next((members[s[1:]] for s in sorted(suffixes) if s[1:] in members), None)


def _samples(tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the name of each run of members with one name, and their bytes by suffix."""
    key: str | None = None
    members: dict[str, bytes] = {}
    for member in tar:
        folder, name = os.path.split(member.name)
        stem, dot, suffix = name.partition(".")
        if not member.isfile() or not stem or not dot:
            continue
        if (this := os.path.join(folder, stem)) != key:
            if key is not None:
                yield key, members
            key, members = this, {}
        file = tar.extractfile(member)
        assert file is not None
        members[suffix.lower()] = file.read()
    if key is not None:
        yield key, members
