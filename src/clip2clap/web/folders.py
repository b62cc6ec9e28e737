"""Folders of uploads and results, whose names cannot be guessed, and their removal."""

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from pathlib import Path

from clip2clap.core.errors import UserError
from clip2clap.web.limits import Limits

_PREFIX = "clip2clap-serve-"
_SWEEP_S = 60.0
# No server works for so long without touching its folder.
_ABANDONED_S = 600.0


class Folders:
    """Folders in one temporary folder; who knows a folder's name may read it.

    Folders are removed `Limits.kept_s` after they were last used, and all of them by `close`.
    """

    def __init__(self, limits: Limits):
        _remove_abandoned(limits.kept_s)
        self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        """Temporary folder of this server."""
        self._limits = limits
        self._used: dict[Path, float] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._sweep, name="clip2clap-sweeping", daemon=True).start()

    def create(self) -> Path:
        """Create a folder.

        Raises:
            UserError: If the folders of all users together are full.
        """
        if _size(self.root) > self._limits.stored_bytes:
            raise UserError("The server has no room for more files. Try again in an hour.")
        folder = self.root / secrets.token_urlsafe(24)
        with self._lock:
            folder.mkdir()
            self._used[folder] = time.monotonic()
        return folder

    def file(self, path: str | Path) -> Path:
        """Return the resolved path of a regular file in one of the folders.

        Raises:
            UserError: If it is no such file.
        """
        wanted = self.root / path
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            found = wanted.resolve(strict=True)
            inside = found.is_relative_to(self.root) and found.parent != self.root
            if inside and found.is_file() and not found.name.startswith("."):
                with self._lock:
                    folder = self.root / found.relative_to(self.root).parts[0]
                    if folder in self._used:
                        self._used[folder] = time.monotonic()
                return found
        raise UserError("There is no such file. Uploads and results are kept for an hour.")

    def remove_old(self, now: float) -> None:
        """Remove the folders that were not used for too long at a time of the monotonic clock."""
        with self._lock:
            old = [path for path, used in self._used.items() if now - used > self._limits.kept_s]
            for path in old:
                del self._used[path]
        for path in old:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Remove all folders."""
        self._closed.set()
        shutil.rmtree(self.root, ignore_errors=True)

    def _sweep(self) -> None:
        while not self._closed.wait(_SWEEP_S):
            self.remove_old(time.monotonic())
            with contextlib.suppress(OSError):
                os.utime(self.root)


def safe_name(name: str, *, default: str = "file") -> str:
    """Return a file name without folders and special characters from one that a browser sent.

    Examples:
        >>> safe_name("../../a dog.JPG")
        'a-dog.jpg'
    """
    last = re.split(r"[/\\]", name)[-1]
    stem, dot, suffix = last.rpartition(".")
    stem, suffix = (stem, suffix) if stem and dot else (last, "")
    stem = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[:60] or default
    suffix = re.sub(r"[^a-z0-9]", "", suffix.lower())[:8]
    return f"{stem}.{suffix}" if suffix else stem


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _remove_abandoned(kept_s: float) -> None:
    """Remove what killed servers left: running ones touch their folder every minute."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > max(kept_s, _ABANDONED_S):
                shutil.rmtree(path, ignore_errors=True)
