"""Files of an index: their types, and those that are in folders now."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, visible_files, visible_folders
from clip2clap.embeddings.space import Modality

TEXT_SUFFIXES = frozenset({".txt"})
"""Suffixes of the files whose lines are indexed, if they are named themselves."""


def modality_of(source: str) -> Literal["image", "audio"]:
    """Return the modality of a file by its suffix; what is no audio and no video is an image."""
    from clip2clap.media.audio import SUFFIXES, VIDEO_SUFFIXES

    suffix = Path(source).suffix.lower()
    return "audio" if suffix in SUFFIXES | VIDEO_SUFFIXES else "image"


def is_media(source: str) -> bool:
    """Return True for a name that ends as those of images, audio and videos do."""
    return Path(source).suffix.lower() in _media_suffixes()


@dataclass(frozen=True)
class FileState:
    """Modality, size in bytes and time of the last change of a file."""

    modality: Modality
    size: int
    mtime_ns: int


@dataclass
class Scan:
    """Files that are there now, by absolute path, and folders that cannot be read."""

    files: dict[str, FileState] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Reasons by path."""


def scan_files(roots: Iterable[str], *, leave_out: str) -> Scan:
    """Find the images, audio files and videos in folders, at any depth, and files by themselves.

    Hidden files are left out, as is one folder: that of the index. A text file is found only where
    it is one of the roots.
    """
    found = Scan()

    def add_problem(error: OSError) -> None:
        path = os.path.abspath(os.fsdecode(error.filename or "."))
        found.problems[path] = f"{path} can't be read: {error.strerror or error}."

    for root in roots:
        if not os.path.isdir(root):
            is_text = Path(root).suffix.lower() in TEXT_SUFFIXES
            _add(found, root, "text" if is_text else modality_of(root), add_problem)
            continue
        for folder in visible_folders(Path(root), add_problem):
            if is_inside(str(folder), leave_out):
                continue
            try:
                inside = visible_files(folder, _media_suffixes())
            except OSError as error:
                add_problem(error)
                continue
            for path in map(str, inside):
                _add(found, path, modality_of(path), add_problem)
    return found


def _add(found: Scan, path: str, modality: Modality, add_problem: object) -> None:
    try:
        found.files[path] = state_of(path, modality)
    except OSError as error:  # removed a moment ago
        assert callable(add_problem)
        add_problem(error)


def state_of(path: str, modality: Modality) -> FileState:
    """Return the present state of a file."""
    status = os.stat(path)
    return FileState(modality, status.st_size, status.st_mtime_ns)


def find_roots(inputs: Sequence[str | Path], *, param: str = "inputs") -> list[str]:
    """Return the absolute paths of files and folders, each once.

    Raises:
        UserError: If one does not exist, or is neither.
    """
    roots = {}
    for name in inputs:
        path = as_path(name)
        if not path.exists():
            raise UserError(f"{name} does not exist.", param=param)
        if not (path.is_dir() or path.is_file()):
            raise UserError(f"{name} is neither a file nor a folder.", param=param)
        roots[os.path.abspath(path)] = None
    return list(roots)


def is_inside(path: str, folder: str) -> bool:
    """Return True if an absolute path is that of a folder or of something in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _media_suffixes() -> frozenset[str]:
    from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
    from clip2clap.media.audio import VIDEO_SUFFIXES
    from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES

    return AUDIO_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES
