"""What the pipelines ask of their arguments alike."""

import math
import os
from typing import Any

from PIL import Image

from clip2clap.embeddings.errors import UserError


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
