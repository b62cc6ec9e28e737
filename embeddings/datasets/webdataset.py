"""WebDataset tar shards."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.datasets.base import Row, Source, caption_of, file_stems
from clip2clap.embeddings.space import Modality
from clip2clap.media import audio as audio_files
from clip2clap.media import images as image_files

SUFFIXES = (".tar", ".tar.gz", ".tgz")

_FILE_SUFFIXES: dict[Modality, list[str]] = {
    "image": sorted(image_files.SUFFIXES),
    "audio": [*sorted(audio_files.SUFFIXES), *sorted(audio_files.VIDEO_SUFFIXES)],
    "text": [".txt", ".caption"],
}
# Larger members are not read into memory.
_MAX_BYTES = 2**28
# Keys of a JSON file with the caption, in any case: img2dataset's and laion_clap's.
_CAPTION_KEYS = ("caption", "text", "captions")


@dataclass(frozen=True)
class WebDataset(Source):
    """Tar shards as `img2dataset` and `laion_clap` write them: files of one name are one row.

    A caption is the `txt` or `caption` file, or the value of "caption", "text" or "captions" in the
    `json` file, of several the first one.
    """

    format = "webdataset"
    files: tuple[Path, ...]
    wanted: frozenset[Modality]

    def __iter__(self) -> Iterator[Row]:
        stems = file_stems(self.files)
        for path in self.files:
            try:
                with tarfile.open(path, "r|*") as tar:
                    for key, members in self._samples(tar):
                        yield self._row(f"{stems[path]}/{key}", members)
                    # tarfile takes an incomplete header for the end.
                    if cast(Any, tar.fileobj).tell() % tarfile.BLOCKSIZE:
                        raise tarfile.ReadError("unexpected end of data")
            except UserError:
                raise
            except Exception as error:  # damaged archives make tarfile and zlib raise many kinds
                raise UserError(
                    f"{path} can't be read as a tar file ({one_line(error)}). Download it again; "
                    "rows embedded so far are safe."
                ) from error

    def _samples(self, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of each run of members with one name, and their bytes by suffix.

        A name may have dots. It belongs to the name before if one begins with the other and a dot,
        as `a.mask.png` beside `a.jpg`; None stands for members that are too large.
        """
        wanted = {".json", *(s for modality in self.wanted for s in _FILE_SUFFIXES[modality])}
        key: str | None = None
        members: dict[str, Any] = {}
        for member in tar:
            name = Path(member.name)
            if not member.isfile() or name.name.startswith(".") or not name.suffix:
                continue
            this = name.with_suffix("").as_posix()
            is_part = key is not None and (this == key or this.startswith(f"{key}."))
            if key is not None and not is_part and not key.startswith(f"{this}."):
                yield key, members
                members = {}
            if not is_part:
                if key is not None and key.startswith(f"{this}."):
                    members = {f"{key[len(this) :]}{suffix}": v for suffix, v in members.items()}
                key = this
            suffix = f"{this[len(key or '') :]}{name.suffix}".lower()
            members[suffix] = None
            if suffix in wanted and member.size <= _MAX_BYTES:
                file = tar.extractfile(member)
                members[suffix] = b"" if file is None else file.read()
        if key is not None:
            yield key, members

    def _row(self, row_id: str, members: Mapping[str, Any]) -> Row:
        caption, url, problem = None, None, None
        try:
            values = json.loads(members.get(".json") or b"{}")
            if isinstance(values, dict):
                values = {key.lower(): value for key, value in values.items()}
                url = values["url"] if isinstance(values.get("url"), str) else None
                given = (values[key] for key in _CAPTION_KEYS if values.get(key) is not None)
                caption = caption_of(next(given, None))
            else:
                problem = (
                    f"expected its json as an object, got {one_line(json.dumps(values), limit=40)}"
                )
        except (ValueError, RecursionError) as error:
            problem = str(error) if isinstance(error, UserError) else "its json is damaged"
        text = next((members[s] for s in _FILE_SUFFIXES["text"] if members.get(s)), b"")
        if text.strip():
            caption = text.decode("utf-8-sig", errors="surrogateescape").strip()
        # Without a wanted caption, nothing is wanted of the JSON file.
        problem = None if caption is not None or "text" not in self.wanted else problem
        content: dict[Modality, Any] = {"text": caption} if "text" in self.wanted else {}
        for modality in sorted(self.wanted - {"text"}):
            suffix = next((s for s in _FILE_SUFFIXES[modality] if s in members), None)
            content[modality] = None if suffix is None else members[suffix]
            if suffix is not None and members[suffix] is None:
                problem = f"its {suffix} file is larger than {_MAX_BYTES:,} bytes"
        captioned = {"caption": caption} if "text" in self.wanted else {}
        return Row(row_id, {**captioned, "file": row_id, "url": url}, content, problem)
