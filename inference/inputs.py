"""What the pipelines ask of their arguments alike."""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError


def as_list(values: Any) -> list[Any] | None:
    """Make one item a list of one; None stays None."""
    if values is None:
        return None
    if isinstance(values, str | bytes | os.PathLike | Image.Image):
        return [values]
    return list(values)


def is_count(value: Any, most: float = math.inf) -> bool:
    """Tell whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def check_texts(texts: list[str], name: str) -> None:
    """Refuse what is no list of texts.

    Raises:
        UserError: Naming the argument.
    """
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"Expected {name} to be a text or a list of texts, got {texts!r}.")


def only_one(**sources: Any) -> str:
    """Give the name of the only argument that is not None.

    Raises:
        UserError: If there is none or another.
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
    """Refuse arguments, by their names, that are not from 0 to the largest.

    Raises:
        UserError: Naming the first.
    """
    for name, value in numbers.items():
        if not isinstance(value, int | float) or not 0 <= value <= largest:
            raise UserError(f"Expected {name} to be from 0.0 to {largest}, got {value!r}.")


def check_interval(interval: Any, name: str) -> None:
    """Check that a pair of numbers is an interval within [0, 1].

    Raises:
        UserError: If it is not; it names the argument.
    """
    pair = tuple(interval) if isinstance(interval, Sequence) else ()
    numbers = [value for value in pair if isinstance(value, int | float)]
    if len(pair) != 2 or len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1] <= 1:
        raise UserError(
            f"Expected {name} to be two numbers (start, end) with 0 <= start <= end <= 1, got "
            f"{interval!r}.",
            param=name,
        )


def check_counts(**counts: Any) -> None:
    """Refuse arguments, by their names, that are not whole numbers from 1 on.

    Raises:
        UserError: Naming the first.
    """
    for name, value in counts.items():
        if not is_count(value):
            raise UserError(f"Expected {name} to be a whole number above 0, got {value!r}.")


def check_steps(steps: Any, scheduler: Any) -> None:
    """Refuse a number of denoising steps that a scheduler can't take; None is its default.

    Raises:
        UserError: With the most there are.
    """
    most = scheduler.config["num_train_timesteps"]
    if steps is not None and not is_count(steps, most):
        raise UserError(
            f"Expected num_inference_steps to be a whole number from 1 to {most}, got {steps!r}."
        )


def check_one_or_each(values: Any, name: str, count: int) -> None:
    """Refuse what is neither one for all items nor one for each.

    Raises:
        UserError: Naming the argument.
    """
    length = len(torch.atleast_2d(values)) if isinstance(values, Tensor) else len(values)
    if length not in (1, count):
        raise UserError(
            f"Expected one {name} for all, or one for each of the {count} items, got {length}."
        )


def check_vectors(vectors: Any, name: str, dim: int | None, *, space: str = "") -> None:
    """Refuse what is no tensor of vectors, or holds values that are not finite.

    Args:
        vectors: The argument.
        name: Its name.
        dim: Values in a vector; None if any will do.
        space: What space they lie in, for the message.

    Raises:
        UserError: Naming the argument.
    """
    if (
        not isinstance(vectors, Tensor)
        or vectors.ndim not in (1, 2)
        or (dim is not None and vectors.shape[-1] != dim)
        or 0 in vectors.shape
    ):
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        where = f", in {space}" if space else ""
        raise UserError(
            f"Expected {name} to be a tensor of shape (n, {dim or 'd'}){where}, got {got}."
        )
    if not torch.isfinite(vectors).all():
        raise UserError(f"{name} holds values that are not finite.")


def check_latents(latents: Tensor | None, shape: tuple[int, ...], what: str) -> None:
    """Refuse starting noise of another shape than what is to be made of it has.

    Raises:
        UserError: With both shapes.
    """
    if latents is not None and tuple(latents.shape) != shape:
        raise UserError(
            f"Expected latents of shape {shape} for {what}, got {tuple(latents.shape)}."
        )


def check_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, count: int
) -> None:
    """Refuse a list of generators that are not one for each item.

    Raises:
        UserError: With both numbers.
    """
    if isinstance(generator, Sequence) and len(generator) != count:
        raise UserError(
            f"Expected one generator, or one for each of the {count} items, got {len(generator)}."
        )


def check_callback_inputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuse tensors that a callback can't get.

    Raises:
        UserError: Naming them and those it can.
    """
    unknown = set(names) - set(known)
    if unknown:
        raise UserError(
            f"The callback can get {', '.join(known)}, not {', '.join(sorted(unknown))}."
        )
