"""Inputs of a generating verb: images, audio files or prompts, read batch by batch."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, is_url

_LONGEST_STEM = 80


@dataclass(frozen=True)
class Input:
    """One input, or the reason why it cannot be read.

    The index, from 0, is added to the seed; the stem is the name of its output files. The value is
    an image, a waveform with its sampling rate, or a prompt.
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
                batch.append(Input(index, source, stem(source), reason=error))
        yield batch


def find_inputs(media: str, inputs: Sequence[str]) -> list[str]:
    """Return files and URLs, with folders replaced by the files of a medium in them.

    Args:
        media: `image` or `audio`.
        inputs: Files, folders and URLs.

    Raises:
        UserError: If a folder has no image, or none of the files exists.
    """
    if not any(is_url(each) or as_path(each).exists() for each in inputs):
        raise UserError(f"{inputs[0]} does not exist.", param="inputs")
    if media == "image":
        from clip2clap.media.images import find_images as find
    else:
        from clip2clap.media.audio import find_audio as find
    return find(inputs)


def load_named_image(source: str, *, allow_private: bool = False) -> Any:
    """Load an image that the command names; a server on this machine needs no permission.

    Raises:
        UserError: If it cannot be read, or is at a private address that is not allowed.
    """
    from clip2clap.media.images import load_image

    own = is_url(source) and urlsplit(source).hostname in ("localhost", "127.0.0.1", "::1")
    return load_image(source, allow_private=allow_private or own)


def image_stem(source: str) -> str:
    """Return the output name of an image: its file's name, or that of its URL."""
    if not is_url(source):
        return Path(source).stem
    return text_stem(Path(unquote(urlsplit(source).path)).stem, default="image")


def text_stem(text: str, *, default: str = "prompt") -> str:
    """Return an output name from the words of a text."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.")[:_LONGEST_STEM] or default


def load_audible(source: str, *, start: float = 0.0, duration: float | None = None) -> Any:
    """Load a waveform and its sampling rate, in seconds from the start.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    from clip2clap.media.audio import load_audio, require_audible

    audio = load_audio(source, start=start, seconds=duration)
    require_audible(audio[0], source)
    return audio
