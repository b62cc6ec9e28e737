"""Inputs of the pipelines: the sources they read, and checks of single arguments."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError, expect

ImageSource = str | Path | bytes | Image.Image
"""File, http(s) URL, bytes of a file, or PIL image."""

AudioSource = str | Path | bytes | tuple[NDArray[np.floating] | Tensor, int]
"""File, bytes of a file, or a mono waveform of shape (samples,) with its sampling rate in Hz."""


Negative = Literal["auto", "learned", "prompt", "zero"]
"""Choice of the embedding to guide away from."""


def as_list(values: Any) -> list[Any] | None:
    """Return a single item as a list of one; None stays None."""
    if values is None:
        return None
    is_waveform = (
        isinstance(values, tuple) and len(values) == 2 and isinstance(values[1], int | np.integer)
    )
    if is_waveform or isinstance(values, str | bytes | os.PathLike | Image.Image):
        return [values]
    return list(values)


def read_images(
    sources: Sequence[ImageSource], start: int = 0, end: int | None = None
) -> list[Image.Image]:
    """Read images, or those from number `start` to before `end`; an unreadable one is named."""
    from clip2clap.media.images import load_image

    numbered = list(enumerate(sources, 1))[start:end]
    return [_numbered(load_image, each, f"Image {n} of {len(sources)}") for n, each in numbered]


def read_audio(
    sources: Sequence[AudioSource], start: float, seconds: float | None
) -> list[tuple[Any, int]]:
    """Read an excerpt of each source, `seconds` long or None for all; an unreadable one is named.

    Returns waveforms, shape (samples,), with their sampling rates in Hz.
    """

    def read(source: AudioSource) -> tuple[Any, int]:
        return _read_waveform(source, start, seconds)

    count = len(sources)
    return [_numbered(read, each, f"Audio {n} of {count}") for n, each in enumerate(sources, 1)]


def _numbered(read: Callable[[Any], Any], source: Any, what: str) -> Any:
    try:
        return read(source)
    except UserError as error:
        if what.endswith(" 1 of 1"):
            raise
        raise type(error)(f"{what}: {error}") from error


def _read_waveform(source: AudioSource, start: float, seconds: float | None) -> tuple[Any, int]:
    from clip2clap.media.audio import load_audio, require_audible

    name = "the audio" if isinstance(source, tuple | bytes) else str(source)
    if isinstance(source, tuple):
        samples, rate = source
        whole = np.asarray(samples)
        end = None if seconds is None else round((start + seconds) * rate)
        waveform = whole[round(start * rate) : end]
        if len(whole) and not len(waveform):
            raise UserError(
                f"{name} lasts {len(whole) / rate:.1f} s, but audio_start_in_s is {start:g}.",
                param="audio_start_in_s",
            )
    else:
        waveform, rate = load_audio(source, start=start, seconds=seconds)
    if waveform.ndim == 1 and len(waveform):
        require_audible(waveform, name)
    return waveform, rate


def is_count(value: Any, most: float = math.inf) -> bool:
    """Return whether a value is an integer from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def check_number(value: Any, name: str, largest: float = math.inf) -> None:
    """Raise a `UserError` that names the argument unless it is from 0 to `largest`."""
    holds = isinstance(value, int | float) and 0 <= value <= largest
    expect(holds, name, f"from 0.0 to {largest}", value)


def check_texts(texts: Any, name: str, count: int | None = None) -> None:
    """Raise a `UserError` unless an argument is texts: one for all of `count` items, or each."""
    holds = texts and all(isinstance(text, str) for text in texts)
    expect(holds, name, "a text or a list of texts", texts)
    if count is not None:
        check_one_or_each(texts, name, count)


def check_only_one(**sources: Any) -> str:
    """Return the name of the only argument that is not None; raise a `UserError` if not one is."""
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        *names, last = sources
        raise UserError(
            f"Give exactly one of {', '.join(names)} and {last}, got "
            f"{' and '.join(given) or 'none of them'}."
        )
    return given[0]


def check_one_or_each(values: Any, name: str, count: int) -> None:
    """Raise a `UserError` unless there is one value for all items, or one for each."""
    length = len(torch.atleast_2d(values)) if isinstance(values, Tensor) else len(values)
    if length not in (1, count):
        raise UserError(
            f"Expected one {name} for all, or one for each of the {count} items, got {length}.",
            param=name,
        )


def check_embeds(
    embeds: Any, name: str, dim: int | None, *, count: int | None = None, space: str = ""
) -> None:
    """Raise a `UserError` unless an argument is finite embeddings, shape (n, dim) or (dim,).

    With `count` they are for all items or for each; `space` is named in the message.
    """
    shape = tuple(embeds.shape) if isinstance(embeds, Tensor) else ()
    if len(shape) not in (1, 2) or 0 in shape or shape[-1] != (dim or shape[-1]):
        raise UserError(
            f"Expected {name} to be a tensor of shape (n, {dim or 'd'})"
            f"{space and f', in {space}'}, got {shape or type(embeds).__name__}.",
            param=name,
        )
    if not torch.isfinite(embeds).all():
        raise UserError(f"{name} holds values that are not finite.", param=name)
    if count is not None:
        check_one_or_each(embeds, name, count)


def embeds_on_cpu(embeds: Any) -> Tensor:
    """Return embeddings as float32 rows on the CPU, shape (n, d), without gradient."""
    return torch.atleast_2d(cast(Tensor, embeds)).detach().to("cpu", torch.float32)
