"""File names that are free."""

import os
from collections.abc import Sequence
from pathlib import Path


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
