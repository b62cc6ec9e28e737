"""Files that appear whole or not at all."""

import contextlib
import os
import threading
from collections.abc import Iterator
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
