"""WebDataset tar shards."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import check_no_pointer
from clip2clap.embeddings.datasets.base import Row, Source, caption_of, decoded, file_stems
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


class _Header(tarfile.TarInfo):
    """Header of a tar; damaged ones raise, which tarfile would take for the end."""

    is_end = False
    """Whether the last block that was read ends an archive; what follows may be another."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        was_end, cls.is_end = cls.is_end, cls.is_end or not any(buf or b"x")
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not buf or not any(buf):
                raise
            if was_end:  # what is left of a longer file, say
                return super().frombuf(b"", encoding, errors)
            raise tarfile.ReadError("unexpected end of data") from error
        cls.is_end = False
        return header


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
                with path.open("rb") as file:
                    check_no_pointer(file, path)
                header = type("Header", (_Header,), {})
                # Archives that were joined have the end of one within.
                with tarfile.open(path, "r|*", tarinfo=header, ignore_zeros=True) as tar:
                    for key, members in self._samples(tar):
                        yield self._row(f"{stems[path]}/{key}", members)
                if not header.is_end:
                    problem = f"{path} has no end: members after its last one may be missing"
                    yield Row(f"{stems[path]}/", {}, {}, problem)
            except UserError:
                raise
            except Exception as error:  # damaged archives make tarfile and zlib raise many kinds
                raise UserError(
                    f"{path} can't be read as a tar file ({one_line(error)}). Download it again; "
                    "rows embedded so far are safe."
                ) from error

    def _samples(self, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of each sample, and the bytes of its members by suffix.

        A name may have dots. One that begins with another and a dot is a part of that sample, as
        `a.mask.png` of `a.jpg`, or a sample if it has all that a sample has, as `v1.5.jpg` and
        `v1.5.txt` beside `v1.jpg` and `v1.txt`.
        """
        key: str | None = None
        members: dict[str, Any] = {}
        longer: tuple[str, dict[str, Any]] | None = None
        for name, run in self._runs(tar):
            if key is not None and longer and name != key and _is_like(longer[1], members):
                yield key, members
                key, members = longer
            longer = None
            if key is not None and name == key:
                members |= run
                continue
            if key is not None and name.startswith(f"{key}."):
                longer = name, run
                continue
            is_whole = _modalities(members) >= {"text", *self.wanted}
            if key is not None and (is_whole or not key.startswith(f"{name}.")):
                yield key, members
            key, members = name, run
        if key is not None:
            yield key, members
        if longer and _is_like(longer[1], members):
            yield longer

    def _runs(self, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of each run of members of one name, and their bytes by suffix.

        None stands for members that are unwanted or too large.
        """
        wanted = {".json", *(s for modality in self.wanted for s in _FILE_SUFFIXES[modality])}
        key: str | None = None
        members: dict[str, Any] = {}
        for member in tar:
            name = Path(member.name)
            if not member.isfile() or name.name.startswith(".") or not name.suffix:
                continue
            this = name.with_suffix("").as_posix()
            if key is not None and this != key:
                yield key, members
                members = {}
            key = this
            suffix = name.suffix.lower()
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
            try:
                caption = decoded(text).strip()
            except UserError as error:
                caption, problem = None, str(error)
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


def _modalities(members: Mapping[str, Any]) -> set[str]:
    found = {name for name, suffixes in _FILE_SUFFIXES.items() if members.keys() & {*suffixes}}
    return {*found, "text"} if ".json" in members else {*found}


def _is_like(longer: Mapping[str, Any], members: Mapping[str, Any]) -> bool:
    """Return True if the members of a longer name are a sample as those of the shorter one."""
    return "text" in _modalities(members) and _modalities(longer) >= _modalities(members)
