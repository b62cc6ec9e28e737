"""Atomic writes and free file names."""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file to write beside `path`; it takes `path`'s place once the block has ended well.

    A reader sees the old file or the new one, never half of either. Threads and processes may
    write the same file at once: one of them wins.

    Args:
        path: The file to write; its folder must exist.

    Yields:
        A hidden path in the same folder to write to.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def free_stem(folder: Path, stem: str, suffixes: Sequence[str], *, taken: set[str]) -> str:
    """Find a file name that neither lies in the folder nor has been given away.

    Args:
        folder: Where the files will lie.
        stem: The name wanted.
        suffixes: What follows the stem in each file that is written, such as `.wav`.
        taken: Names already given away, compared without regard to case, as some file systems do.

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
