"""Picture files, written whole, and several pictures in one."""

import math
from collections.abc import Sequence
from pathlib import Path

from diffusers.utils import make_image_grid
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
_OPTIONS = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


def write_image(path: str | Path, picture: Image.Image) -> None:
    """Write a picture to a file, all of it or nothing.

    Args:
        path: A name that ends in .png, .jpg or .webp; its folder must exist. A file of that name
            is replaced.
        picture: The picture.

    Raises:
        UserError: If the name ends in anything else.
    """
    path = Path(path)
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise UserError(
            f"Cannot write {path.name!r}: expected a name that ends in .png, .jpg or .webp."
        )
    with replacing(path) as partial:
        picture.save(partial, format, **_OPTIONS.get(format, {}))


def arrange(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of one size side by side, in rows as long as there are rows or one longer.

    Args:
        pictures: At least one; they are read from left to right and from top to bottom.

    Returns:
        One picture; places without one are white.

    Raises:
        UserError: If there is no picture.
    """
    if not pictures:
        raise UserError("There are no pictures to put side by side.")
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    empty = [Image.new("RGB", pictures[0].size, "white")] * (rows * columns - len(pictures))
    return make_image_grid([*pictures, *empty], rows=rows, cols=columns)
