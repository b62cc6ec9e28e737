"""File of classified files as JSON lines, by which a killed run goes on."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, is_url, replacing
from clip2clap.core.version import __version__

_FORMAT = "clip2clap classify"

Line = dict[str, Any]
"""Line: `input`, `segments` or `reason`, and the input's size in `bytes` and time `modified`."""


class LabelFile:
    """JSON lines of classified files, opened for appending; the first line has the settings.

    On opening, a line that a killed run left half written is removed, and so are those of files
    that could not be read or have changed since: they are classified again.

    Args:
        path: File to write or to continue; its folder must exist.
        settings: Plain values by name that determine the labels.

    Raises:
        UserError: If the file is no such file or has other settings, or another run writes it.

    Examples:
        >>> with LabelFile("labels.jsonl", {"labels": ["dog", "rain"]}) as file:
        ...     file.append("bark.wav", [{"labels": [{"label": "dog", "probability": 0.9}]}])
        >>> with LabelFile("labels.jsonl", {"labels": ["dog", "rain"]}) as file:
        ...     file.remaining(["bark.wav", "dog.wav"])
        ['dog.wav']
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]):
        self.path = as_path(path)
        # Through JSON, as they come back from the file.
        self._settings = json.loads(json.dumps(settings))
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another run is writing {path}. Wait for it, or name another file.", param="output"
            ) from error
        try:
            self._done = self._resume()
            self._file = self.path.open("a", encoding="ascii")
        except BaseException:
            self._release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._release()

    def __len__(self) -> int:
        """Return the number of classified files."""
        return len(self._done)

    def remaining(self, sources: list[str]) -> list[str]:
        """Return the files that are not classified yet, each once."""
        return [source for source in dict.fromkeys(sources) if source not in self._done]

    def append(
        self, source: str, segments: list[dict[str, Any]] | None, reason: str | None = None
    ) -> None:
        """Append a file, which is on its way to the disk when this returns."""
        line: Line = {"input": source, "segments": segments, **_state_of(source)}
        if reason is not None:
            line["reason"] = reason
        else:
            self._done.add(source)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _resume(self) -> set[str]:
        if not self.path.exists() or not self.path.stat().st_size:
            kept: list[Line] = []
        else:
            kept = [line for line in self._lines() if _is_current(line)]
        head = {"format": _FORMAT, "clip2clap": __version__, "settings": self._settings}
        with replacing(self.path) as partial, partial.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(line) + "\n" for line in (head, *kept))
        return {line["input"] for line in kept}

    def _lines(self) -> Iterator[Line]:
        """Yield the lines below the settings, after checking these."""
        with self.path.open("rb") as file:
            head = _parsed(file.readline())
            if head.get("format") != _FORMAT:
                raise UserError(
                    f"{self.path} was not written by clip2clap classify. Name another file.",
                    param="output",
                )
            before = head["settings"]
            changed = [
                f"{name} was {_short(before.get(name))} and is now {_short(now)}"
                for name, now in self._settings.items()
                if before.get(name) != now
            ]
            if changed:
                raise UserError(
                    f"{self.path} was made with other settings: {'; '.join(changed)}. Continue "
                    "with the same, or name another file.",
                    param="output",
                )
            for line in map(_parsed, file):
                if line.get("segments") is not None:
                    yield line

    def _release(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()


def _parsed(line: bytes) -> Line:
    """Return a line's values; none for one that is broken or half written."""
    try:
        value = json.loads(line) if line.endswith(b"\n") else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _state_of(source: str) -> Line:
    """Return size and time of a file; nothing for an address or a file that is gone."""
    if is_url(source):
        return {}
    try:
        state = os.stat(as_path(source))
    except OSError:
        return {}
    return {"bytes": state.st_size, "modified": state.st_mtime_ns}


def _is_current(line: Line) -> bool:
    state = _state_of(line["input"])
    return all(line.get(name) == value for name, value in state.items())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
