"""Inputs of a generating verb: images, audio files or prompts, read batch by batch."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from clip2clap.cli.checks import is_url, require
from clip2clap.core.errors import UserError, one_line

_LONGEST_STEM = 80


@dataclass(frozen=True)
class Input:
    """One input, or the reason why it cannot be read."""

    index: int
    """Position among the inputs, from 0; added to the seed."""

    source: str
    """File, URL or prompt."""

    stem: str
    """Name of its output files, without the suffix."""

    value: Any = None
    """Image, waveform with its sampling rate, or prompt; None if it cannot be read."""

    reason: str | None = None
    """Reason why it cannot be read."""


def read_inputs(
    sources: Sequence[str],
    load: Callable[[str], Any],
    *,
    batch_size: int,
    stem: Callable[[str], str] = lambda source: Path(source).stem,
) -> Iterator[list[Input]]:
    """Yield batches of inputs in order; one that cannot be read has the reason.

    Args:
        sources: Files, URLs or prompts.
        load: Reads one of them.
        batch_size: Inputs per batch.
        stem: Returns the name of a source's output files.
    """
    for start in range(0, len(sources), batch_size):
        batch = []
        for index, source in enumerate(sources[start : start + batch_size], start):
            try:
                batch.append(Input(index, source, stem(source), value=load(source)))
            except (UserError, OSError) as error:
                batch.append(Input(index, source, stem(source), reason=one_line(error, limit=None)))
        yield batch


def find_image_inputs(inputs: Sequence[str]) -> list[str]:
    """Return image files and URLs, with folders replaced by the images in them.

    Raises:
        UserError: If a folder has no image, or none of the files exists.
    """
    from clip2clap.media.images import find_images

    return _require_one(find_images(inputs))


def find_audio_inputs(inputs: Sequence[str]) -> list[str]:
    """Return audio files, with folders replaced by the audio files in them.

    Raises:
        UserError: If none of the files exists.
    """
    from clip2clap.media.audio import find_audio

    return _require_one(find_audio(inputs))


def _require_one(sources: list[str]) -> list[str]:
    is_there = (is_url(source) or Path(source).expanduser().exists() for source in sources)
    require(any(is_there), "inputs", f"{sources[0]} does not exist.")
    return sources


def image_stem(source: str) -> str:
    """Return the output name of an image: its file's name, or that of its URL."""
    if not is_url(source):
        return Path(source).stem
    return text_stem(Path(unquote(urlsplit(source).path)).stem, default="image")


def text_stem(text: str, *, default: str = "prompt") -> str:
    """Return an output name from the words of a text."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:_LONGEST_STEM] or default


def load_audible(source: str, *, start: float, duration: float | None) -> Any:
    """Load audio that is not silent.

    Args:
        source: Audio or video file.
        start: Start in seconds.
        duration: Length in seconds; all if None.

    Returns:
        Waveform of shape (samples,), and its sampling rate in Hz.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    from clip2clap.media.audio import load_audio, require_audible

    audio = load_audio(source, start=start, seconds=duration)
    require_audible(audio[0], source)
    return audio
