"""Atomic writes, unused file names, and files of a folder."""

import contextlib
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically, once the block has ended without an error.

    A reader sees the old file or the new one. Threads and processes may write the same file at
    once: one of them wins.

    Args:
        path: File to replace; its folder must exist.

    Yields:
        Hidden path in the same folder to write to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def free_stem(folder: Path, stem: str, suffixes: Sequence[str], *, taken: set[str]) -> str:
    """Find a file stem that is unused in a folder.

    Args:
        folder: Folder of the files.
        stem: Preferred stem.
        suffixes: Suffixes of the files that will be written, such as `.wav`.
        taken: Further used stems, case-folded, since some file systems ignore case.

    Returns:
        `stem` if it is free, otherwise `stem-2`, `stem-3` and so on.
    """
    candidate, number = stem, 1
    while candidate.casefold() in taken or any(
        os.path.lexists(folder / f"{candidate}{suffix}") for suffix in suffixes
    ):
        number += 1
        candidate = f"{stem}-{number}"
    return candidate


def visible_files(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Return the files of a folder, sorted by name, without its subfolders.

    Hidden files are left out, such as the `._dog.jpg` that macOS writes beside `dog.jpg`.

    Args:
        folder: Existing folder.
        suffixes: Wanted suffixes in lower case; all if None.
    """
    return sorted(
        (
            path
            for path in folder.iterdir()
            if not path.name.startswith(".")
            and (suffixes is None or path.suffix.lower() in suffixes)
            and path.is_file()
        ),
        key=lambda path: path.name,
    )


def visible_folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and its subfolders, each before its own, sorted by name.

    Hidden ones are left out. Links to folders come last; each folder is yielded once, so that
    links that lead back end.
    """
    seen: set[tuple[int, int]] = set()
    pending, links = [folder], []
    while pending or links:
        current = pending.pop() if pending else links.pop(0)
        status = current.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield current
        inside = [p for p in current.iterdir() if not p.name.startswith(".") and p.is_dir()]
        inside.sort(key=lambda path: path.name)
        pending += [path for path in reversed(inside) if not path.is_symlink()]
        links += [path for path in inside if path.is_symlink()]
