"""Inputs of the pipelines: the sources they read, and checks of single arguments."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_integer, is_number

ImageSource = Any
"""What `clip2clap.media.load_image` reads: files, PIL images, arrays, items of `datasets`."""

AudioSource = Any
"""What `clip2clap.media.load_audio` reads: files, (waveform, rate), items of `datasets`."""

Negative = Literal["auto", "learned", "prompt", "zero"]
"""Choice of the embedding to guide away from."""


def as_list(values: Any) -> list[Any] | None:
    """Return a single item as a list of one, and a batch of images as their list; None stays."""
    if values is None:
        return None
    if isinstance(values, np.ndarray | Tensor):
        return list(values) if values.ndim > 3 else [values]
    is_waveform = isinstance(values, tuple) and len(values) == 2 and any(map(is_number, values))
    # A dictionary, an opened file and a decoder are one item, though some can be iterated.
    is_file = isinstance(values, str | bytes | Mapping) or hasattr(values, "read")
    return [values] if is_waveform or is_file or not isinstance(values, Iterable) else list(values)


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
        raise type(error)(f"{what}: {error}", param=error.param) from error


def _read_waveform(source: AudioSource, start: float, seconds: float | None) -> tuple[Any, int]:
    from clip2clap.media.audio import load_audio, require_audible

    waveform, rate = load_audio(source, start=start, seconds=seconds)
    require_audible(waveform, str(source) if isinstance(source, str | os.PathLike) else "the audio")
    return waveform, rate


def is_count(value: Any, most: float = math.inf) -> bool:
    """Return whether a value is an integer from 1 to `most`."""
    return is_integer(value) and 1 <= value <= most


def check_number(value: Any, name: str, largest: float = math.inf) -> None:
    """Raise a `UserError` that names the argument unless it is finite, from 0 to `largest`."""
    holds = is_number(value) and 0 <= value <= largest
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
    if len(shape) not in (1, 2) or 0 in shape or (dim and shape[-1:] != (dim,)):
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
