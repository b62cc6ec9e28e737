"""Manifest of a folder of generated audio: one JSON line per job, by which runs are resumed."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Self

from clip2clap.core.errors import UserError
from clip2clap.core.files import (
    MANIFEST_BEGINNING,
    MANIFEST_FILE,
    SPECTROGRAM_ENDING,
    is_url,
    replacing,
)
from clip2clap.media.arrays import open_file
from clip2clap.media.writing import AUDIO_FORMATS

CANDIDATES_FOLDER = "candidates"
"""Name of the subfolder of the candidates that were dropped, but are to be kept."""

VERSION = 1

Entry = dict[str, Any]
"""Line of a manifest."""

# A WAV's header, the smallest of all formats. Larger files may have been edited since, and stay.
_LEAST_BYTES = 44
# What the audio of a job depends on, beside its image.
_CONDITIONS = ("prompt", "negative_prompt", "seconds", "settings")


class Manifest:
    """Manifest of a folder, opened for appending.

    On opening and on closing, lines that a later one replaced, with files that no other line
    lists, those of files that are gone, and one that a killed run left half written are removed.

    Args:
        folder: Existing folder.

    Raises:
        UserError: If its manifest was written by another program.
    """

    def __init__(self, folder: Path):
        check_manifest(folder)
        self.folder = folder
        self._path = folder / MANIFEST_FILE
        self._compact()
        # Of each job: where in the file its lines begin.
        self._places: dict[bytes, list[int]] = {}
        self.names: set[str] = set()
        for place, entry in self._lines():
            if entry["status"] == "done":
                self._places.setdefault(key_of(entry), []).append(place)
                self.names.add(entry["name"].casefold())
        self._file = self._path.open("a", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> bool:
        """Close the file; returns True if lines were removed."""
        self._file.close()
        return self._compact()

    def take(self, key: bytes, source: str | None, *, renamed: bool = False) -> Entry | None:
        """Return the entry of an equal job of an earlier run; each is returned once.

        Args:
            key: Digest of the job, see `key_of`.
            source: File or URL of its image; None without one.
            renamed: Whether the image may have had another name then.
        """
        places = self._places.get(key)
        if not places:
            return None
        with self._path.open("rb") as file:
            for number, place in enumerate(places):
                file.seek(place)
                entry = json.loads(file.readline())
                if renamed or _is_same(entry["input"], source):
                    del places[number]
                    return entry
        return None

    def has_untaken(self, key: bytes) -> bool:
        """Return True if an entry of an equal job has not been taken."""
        return bool(self._places.get(key))

    def append(self, entry: Entry) -> None:
        """Append a line, which is on its way to the disk when this returns."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def has_files(self, entry: Entry) -> bool:
        """Return True if all files of an entry exist, none of them cut off before its samples."""
        return all(_size_of(self.folder / path) >= _LEAST_BYTES for path in files_of(entry))

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of the file."""
        for _, entry in self._lines():
            yield entry

    def _raw_lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield where each line begins, and the line."""
        place = 0
        if self._path.exists():
            with self._path.open("rb") as file:
                for line in file:
                    yield place, line
                    place += len(line)

    def _lines(self) -> Iterator[tuple[int, Entry]]:
        """Yield where each line begins, and its entry; broken lines are left out."""
        for place, line in self._raw_lines():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if line.endswith(b"\n") and _is_entry(entry):
                yield place, entry

    def _compact(self) -> bool:
        """Keep the last line of each name of files, and of each job without files."""
        last: dict[tuple[Any, ...], int] = {}
        for place, entry in self._lines():
            job = (entry["input"], entry["prompt"], entry["seed"])
            last.pop(job, None)
            if entry["status"] != "done":
                last[job] = place
            elif any((self.folder / path).exists() for path in files_of(entry)):
                last[(entry["name"].casefold(),)] = place
        kept = set(last.values())
        if all(place in kept for place, _ in self._raw_lines()):
            return False
        # Before their lines are gone: a kill leaves no file that no line knows.
        self._remove_replaced_files(kept)
        with replacing(self._path) as partial, partial.open("wb") as file:
            file.writelines(line for place, line in self._raw_lines() if place in kept)
        return True

    def _remove_replaced_files(self, kept: set[int]) -> None:
        """Remove the files that only other lines list than those at the places that are kept."""
        current, replaced = set[str](), set[str]()
        for place, entry in self._lines():
            if place in kept:
                # On some file systems a name in other letters is the same file.
                current.update(path.casefold() for path in files_of(entry))
            elif entry["status"] == "done":
                replaced.update(path for path in files_of(entry) if _is_named(path, entry["name"]))
        for path in replaced:
            if path.casefold() not in current:
                with suppress(OSError):  # what cannot be removed stays
                    (self.folder / path).unlink()


def check_manifest(folder: Path) -> None:
    """Raise a `UserError` if a folder's manifest was written by another program."""
    path = folder / MANIFEST_FILE
    if not path.exists():
        return
    with open_file(str(path), UserError) as file:
        beginning = file.read(len(MANIFEST_BEGINNING))
    if not MANIFEST_BEGINNING.startswith(beginning):
        raise UserError(
            f"{path} was not written by clip2clap image-to-audio. Move it, or name another folder.",
            param="output",
        )


def _is_entry(entry: Any) -> bool:
    """Return True for a line of this version that has what is read of it, in its types."""
    try:
        lists = entry["outputs"], entry["heard_as"]
        mappings = [entry["settings"], entry["models"], *chain(*lists)]
        return (
            entry["version"] == VERSION
            and isinstance(entry["status"], str)
            and (entry["status"] != "done" or isinstance(entry["name"], str))
            and all(isinstance(each, list) for each in lists)
            and all(isinstance(each, dict) for each in mappings)
            and all(isinstance(path, str) and "\0" not in path for path in files_of(entry))
            and len(key_of(entry)) > 0
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_same(first: str | None, second: str | None) -> bool:
    """Return True if two names are those of one file, or both are none."""
    if not first or not second:
        return first == second
    return os.path.abspath(first) == os.path.abspath(second)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_named(path: str, name: str) -> bool:
    """Return True for a path as a run names its files; a damaged manifest may list any others."""
    formats = "|".join(AUDIO_FORMATS)
    pattern = rf"{re.escape(name)}(-\d+)?(\.({formats})|{re.escape(SPECTROGRAM_ENDING)})"
    folder, file = PurePath(path).parent.as_posix(), PurePath(path).name
    return folder in (".", CANDIDATES_FOLDER) and re.fullmatch(pattern, file) is not None


def files_of(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths of an entry's files, relative to the folder."""
    for output in entry["outputs"]:
        yield output["path"]
        if "spectrogram" in output:
            yield output["spectrogram"]


def key_of(entry: Mapping[str, Any]) -> bytes:
    """Return a digest of all that the audio of a job depends on.

    An image on the web is known by its address, so that it is not downloaded to be skipped. A seed
    that a job has from its place among the others is not compared, but the run's: so more images
    can be added to a folder.
    """
    source, settings = entry["input"], entry["settings"]
    image = source if source and is_url(source) else entry["sha256"]
    seed = entry["seed"] if settings["seed"] is None else None
    models = {part: model["fingerprint"] for part, model in entry["models"].items()}
    conditions = {name: entry[name] for name in _CONDITIONS}
    if source is not None:
        # An image that is described has a prompt, too, which follows from it and the settings.
        conditions["prompt"] = None
    values = [image, seed, models, *conditions.values()]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
