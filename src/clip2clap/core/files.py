"""Atomic writes and unused file names."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
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
