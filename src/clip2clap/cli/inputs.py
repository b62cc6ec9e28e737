"""Inputs of a generating verb: audio files read batch by batch, and images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.core.files import expand_inputs, is_local_url


@dataclass(frozen=True)
class Input:
    """One input, or the reason why it cannot be read.

    The index, from 0, is added to the seed; the stem is the name of its output files. The value is
    a waveform with its sampling rate.
    """

    index: int
    source: str
    stem: str
    value: Any = None
    reason: Exception | None = None


def read_inputs(
    sources: Sequence[str],
    load: Callable[[str], Any],
    *,
    batch_size: int,
) -> Iterator[list[Input]]:
    """Yield batches of inputs in order; one that cannot be read has the reason.

    Args:
        sources: Files.
        load: Reads one of them.
        batch_size: Inputs per batch.
    """
    for start in range(0, len(sources), batch_size):
        batch = []
        for index, source in enumerate(sources[start : start + batch_size], start):
            try:
                batch.append(Input(index, source, Path(source).stem, value=load(source)))
            except (UserError, OSError) as error:
                batch.append(Input(index, source, Path(source).stem, reason=error))
        yield batch


def find_inputs(inputs: Sequence[str], *, recursive: bool = False) -> list[str]:
    """Return audio files and videos, with folders and patterns replaced by those in them.

    Args:
        inputs: Files, folders and patterns.
        recursive: Whether to search the subfolders of folders, too.

    Raises:
        UserError: As for `expand_inputs`.
    """
    from clip2clap.media.audio import SUFFIXES, VIDEO_SUFFIXES

    return list(
        expand_inputs(inputs, SUFFIXES | VIDEO_SUFFIXES, "audio and no video", recursive=recursive)
    )


def load_named_image(source: str, *, allow_private: bool = False) -> Any:
    """Load an image that the command names; a server on this machine needs no permission.

    Raises:
        UserError: If it cannot be read, or is at a private address that is not allowed.
    """
    from clip2clap.media.images import load_image

    return load_image(source, allow_private=allow_private or is_local_url(source))


def load_audible(source: str, *, start: float = 0.0, duration: float | None = None) -> Any:
    """Load a waveform and its sampling rate, in seconds from the start.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    from clip2clap.media.audio import load_audio, require_audible

    audio = load_audio(source, start=start, seconds=duration)
    require_audible(audio[0], source)
    return audio
