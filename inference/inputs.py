"""Inputs of the pipelines: the sources they read, and checks of their arguments."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError

ImageSource = str | Path | bytes | Image.Image
"""File, http(s) URL, bytes of a file, or PIL image."""

AudioSource = str | Path | bytes | tuple[NDArray[np.floating] | Tensor, int]
"""File, bytes of a file, or a mono waveform of shape (samples,) with its sampling rate in Hz."""


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
    """Read images, or those from number `start` to before `end`.

    Raises:
        UserError: If an image is unreadable; of several its number is named.
    """
    from clip2clap.media.images import load_image

    return [
        _numbered(load_image, source, "Image", place, len(sources))
        for place, source in enumerate(sources[start:end], start + 1)
    ]


def read_audio(
    sources: Sequence[AudioSource], start: float, seconds: float | None
) -> list[tuple[Any, int]]:
    """Read audio, or an excerpt of each source.

    Args:
        sources: Audio sources.
        start: Start of the excerpt, in seconds.
        seconds: Length of the excerpt, in seconds; None for all.

    Returns:
        Waveforms, shape (samples,), with their sampling rates in Hz.

    Raises:
        UserError: If a source is unreadable or silent; of several its number is named.
    """

    def read(source: AudioSource) -> tuple[Any, int]:
        return _read_waveform(source, start, seconds)

    return [
        _numbered(read, source, "Audio", place, len(sources))
        for place, source in enumerate(sources, 1)
    ]


def _numbered(read: Any, source: Any, what: str, place: int, count: int) -> Any:
    try:
        return read(source)
    except UserError as error:
        if count == 1:
            raise
        raise type(error)(f"{what} {place} of {count}: {error}") from error


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


def check_texts(texts: Any, name: str) -> None:
    """Raise a `UserError` that names the argument unless it is a list of texts."""
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"Expected {name} to be a text or a list of texts, got {texts!r}.", param=name
        )


def check_only_one(**sources: Any) -> str:
    """Return the name of the only argument that is not None.

    Raises:
        UserError: If none or several are given.
    """
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        *names, last = sources
        raise UserError(
            f"Give exactly one of {', '.join(names)} and {last}, got "
            f"{' and '.join(given) or 'none of them'}."
        )
    return given[0]


def check_numbers(largest: float, **numbers: Any) -> None:
    """Raise a `UserError` that names the first argument not from 0 to `largest`."""
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not 0 <= value <= largest:
            raise UserError(
                f"Expected {name} to be from 0.0 to {largest}, got {value!r}.", param=name
            )


def check_counts(**counts: Any) -> None:
    """Raise a `UserError` that names the first argument that is not a positive integer."""
    for name, value in counts.items():
        if not is_count(value):
            raise UserError(f"Expected {name} to be a positive integer, got {value!r}.", param=name)


def check_choice(value: Any, choices: Sequence[str], name: str) -> None:
    """Raise a `UserError` that names the argument unless it is one of the choices."""
    if value not in choices:
        raise UserError(
            f"Expected {name} to be one of {', '.join(choices)}, got {value!r}.", param=name
        )


def check_interval(interval: Any, name: str) -> None:
    """Raise a `UserError` unless a pair of numbers is an interval within [0, 1]."""
    pair = tuple(interval) if isinstance(interval, Sequence) else ()
    numbers = [value for value in pair if isinstance(value, int | float)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise UserError(
            f"Expected {name} to be two numbers (start, end) with 0 <= start <= end <= 1, got "
            f"{interval!r}.",
            param=name,
        )


def check_steps(steps: Any, scheduler: Any) -> None:
    """Raise a `UserError` unless a scheduler supports a number of steps; None is its default."""
    most = scheduler.config["num_train_timesteps"]
    if steps is not None and not is_count(steps, most):
        raise UserError(
            f"Expected num_inference_steps to be an integer from 1 to {most}, got {steps!r}.",
            param="num_inference_steps",
        )


def check_one_or_each(values: Any, name: str, count: int) -> None:
    """Raise a `UserError` unless there is one value for all items, or one for each."""
    length = len(torch.atleast_2d(values)) if isinstance(values, Tensor) else len(values)
    if length not in (1, count):
        raise UserError(
            f"Expected one {name} for all, or one for each of the {count} items, got {length}.",
            param=name,
        )


def check_embeds(embeds: Any, name: str, dim: int | None, *, space: str = "") -> None:
    """Check that an argument is a tensor of finite embeddings.

    Args:
        embeds: The argument.
        name: Its name.
        dim: Embedding dimension; None for any.
        space: Name of the embedding space, for the message.

    Raises:
        UserError: If it is not; the argument is named.
    """
    if (
        not isinstance(embeds, Tensor)
        or embeds.ndim not in (1, 2)
        or (dim is not None and embeds.shape[-1] != dim)
        or 0 in embeds.shape
    ):
        got = tuple(embeds.shape) if isinstance(embeds, Tensor) else type(embeds).__name__
        where = f", in {space}" if space else ""
        raise UserError(
            f"Expected {name} to be a tensor of shape (n, {dim or 'd'}){where}, got {got}.",
            param=name,
        )
    if not torch.isfinite(embeds).all():
        raise UserError(f"{name} holds values that are not finite.", param=name)


def check_latents(latents: Tensor | None, shape: tuple[int, ...], what: str) -> None:
    """Raise a `UserError` unless starting noise has the expected shape."""
    if latents is not None and tuple(latents.shape) != shape:
        raise UserError(
            f"Expected latents of shape {shape} for {what}, got {tuple(latents.shape)}.",
            param="latents",
        )


def check_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> None:
    """Raise a `UserError` unless a list of generators has one for each item."""
    if isinstance(generator, Sequence) and len(generator) != count:
        raise UserError(
            f"Expected one generator, or one for each of the {count} items, got {len(generator)}.",
            param="generator",
        )


def check_callback_inputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise a `UserError` for tensors that are not available to a callback."""
    unknown = set(names) - set(known)
    if unknown:
        raise UserError(
            f"The callback can get {', '.join(known)}, not {', '.join(sorted(unknown))}.",
            param="callback_on_step_end_tensor_inputs",
        )


def embeds_on_cpu(embeds: Any) -> Tensor:
    """Return embeddings as float32 rows on the CPU, shape (n, d), without gradient."""
    return torch.atleast_2d(cast(Tensor, embeds)).detach().to("cpu", torch.float32)
