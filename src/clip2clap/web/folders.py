"""Folders of uploads and results, whose names cannot be guessed, and their removal."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from clip2clap.core.errors import UserError
from clip2clap.web.limits import Limits

_PREFIX = "clip2clap-serve-"
_SWEEP_S = 60.0
# No server works for so long without touching its folder.
_ABANDONED_S = 600.0
_CHECKED_BYTES = 2**24
_FULL = "The server has no room for more files. Try again in an hour."


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
        self._linked: dict[Path, set[Path]] = {}
        self._receiving = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        threading.Thread(target=self._sweep, name="clip2clap-sweeping", daemon=True).start()

    def create(self) -> Path:
        """Create a folder.

        Raises:
            UserError: If the folders of all users together are full.
        """
        if self.size() > self._limits.stored_bytes:
            raise UserError(_FULL)
        folder = self.root / secrets.token_urlsafe(24)
        with self._lock:
            folder.mkdir()
            self._used[folder] = time.monotonic()
        return folder

    @contextlib.contextmanager
    def receiving(self) -> Iterator[Callable[[int], None]]:
        """Count what comes of an upload as stored until the block ends.

        Yields:
            Function of the number of bytes that came, which raises `UserError` if the folders of
            all users together are full. It is called by one thread.
        """
        received, unchecked = 0, _CHECKED_BYTES

        def count(size: int) -> None:
            nonlocal received, unchecked
            received, unchecked = received + size, unchecked + size
            self._receiving += size
            if unchecked >= _CHECKED_BYTES:
                unchecked = 0
                if self.size() + self._receiving > self._limits.stored_bytes:
                    raise UserError(_FULL)

        try:
            yield count
        finally:
            self._receiving -= received

    def link(self, folder: Path, name: str, file: Path) -> Path:
        """Let who knows a folder read one file from elsewhere, and return its path in the folder.

        Raises:
            OSError: If the file is gone, or the folder was removed.
        """
        target, path = file.resolve(strict=True), folder / name
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(target)
        with self._lock:
            self._linked.setdefault(folder, set()).add(target)
        return path

    def file(self, path: str | Path) -> Path:
        """Return the resolved path of a regular file in one of the folders, or linked from it.

        Raises:
            UserError: If it is no such file.
        """
        wanted = Path(os.path.normpath(self.root / path))
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            found = wanted.resolve(strict=True)
            inside = found.is_relative_to(self.root) and found.parent != self.root
            own = found if inside else wanted
            folder = self.root.joinpath(*own.relative_to(self.root).parts[:1])
            is_open = inside and not found.name.startswith(".")
            with self._lock:
                is_open = is_open or found in self._linked.get(folder, ())
                if is_open and found.is_file():
                    if folder in self._used:
                        self._used[folder] = time.monotonic()
                    return found
        raise UserError("There is no such file. Uploads and results are kept for an hour.")

    def size(self) -> int:
        """Return the bytes of all files, without those that are linked."""
        total = 0
        # Folders may vanish meanwhile, which a walk skips.
        for folder, _, names in os.walk(self.root):
            for name in names:
                with contextlib.suppress(OSError):
                    status = os.lstat(os.path.join(folder, name))
                    total += status.st_size if stat.S_ISREG(status.st_mode) else 0
        return total

    def remove_old(self, now: float) -> None:
        """Remove the folders that were not used for too long at a time of the monotonic clock."""
        with self._lock:
            old = [path for path, used in self._used.items() if now - used > self._limits.kept_s]
            for path in old:
                del self._used[path]
                self._linked.pop(path, None)
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


def named_error(error: UserError, names: Mapping[str, str]) -> UserError:
    """Return an error that says the names of uploads in place of their paths, which are keys."""
    message = str(error)
    for path, name in names.items():
        message = message.replace(path, name)
    return UserError(message)


def _remove_abandoned(kept_s: float) -> None:
    """Remove what killed servers left: running ones touch their folder every minute."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > max(kept_s, _ABANDONED_S):
                shutil.rmtree(path, ignore_errors=True)
