"""Read a picture from anywhere into RGB, or say in one line why it can't be read."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clip2clap.core.errors import UserError, one_line

MAX_PIXELS = 100_000_000
"""Pixels above which a picture is refused: decoding it would take gigabytes."""

MAX_ASPECT = 100
"""Sides' ratio above which a picture is refused: scaling its short side up would take gigabytes."""

MAX_DOWNLOAD_BYTES = 50_000_000
"""Bytes above which a download is given up."""

DOWNLOAD_SECONDS = 30.0
"""Seconds after which a download is given up."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff"})
"""What is taken from a folder."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")


class UnreadableImageError(UserError):
    """A picture that can't be read; the message names it and says what to do."""


def load_image(
    source: str | Path | Image.Image | bytes, *, allow_private: bool = True
) -> Image.Image:
    """Read a picture into 8-bit RGB, upright, on white where it is transparent.

    JPEG, PNG, WebP, GIF (its first frame) and TIFF, with palettes and 16-bit greys.

    Args:
        source: A path, an http(s) URL, an opened picture, or a file's bytes.
        allow_private: Also fetch URLs of private addresses: this machine and its network.

    Returns:
        The picture in mode RGB.

    Raises:
        UnreadableImageError: If there is no picture to be had from it, or it is larger than
            `MAX_PIXELS`, or its sides' ratio exceeds `MAX_ASPECT`.
    """
    if isinstance(source, Image.Image):
        with _explained("the picture"):
            return _to_rgb(source, "the picture")
    if isinstance(source, bytes):
        return _decode(source, "the picture")
    name = str(source)
    if is_url(name):
        return _decode(_download(name, allow_private), name)
    path = Path(source).expanduser()
    if path.is_dir():
        raise UnreadableImageError(f"{name} is a folder; give a picture's file.")
    if not path.exists():
        raise UnreadableImageError(f"{name} does not exist. Check the path.")
    try:
        if not path.stat().st_size:
            raise UnreadableImageError(f"{name} is empty. Fetch or save it again.")
        with path.open("rb") as file:
            return _decode(file, name)
    except OSError as error:
        raise UnreadableImageError(f"{name} can't be read: {error.strerror or error}.") from error


def is_url(source: str) -> bool:
    """Tell whether a name is an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def find_images(inputs: Sequence[str]) -> list[str]:
    """Replace every folder by the pictures in it.

    Args:
        inputs: Files, folders and http(s) URLs.

    Returns:
        Files and URLs in the order given, those of a folder sorted by name; folders in it are not
        entered.

    Raises:
        UserError: If a folder holds no picture.
    """
    found: list[str] = []
    for name in inputs:
        folder = Path(name).expanduser()
        if is_url(name) or not folder.is_dir():
            found.append(name)
            continue
        inside = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise UserError(
                f"The folder {name} holds no picture ({', '.join(sorted(SUFFIXES))}); folders in "
                "it are not entered."
            )
        found += [str(path) for path in inside]
    return found


def _decode(data: IO[bytes] | bytes, name: str) -> Image.Image:
    if isinstance(data, bytes):
        if not data:
            raise UnreadableImageError(f"{name} is empty. Fetch or save it again.")
        data = io.BytesIO(data)
    # Naming the formats keeps PIL's rarer readers away from files of unknown origin.
    with _explained(name), Image.open(data, formats=_FORMATS) as image:
        return _to_rgb(image, name)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn whatever PIL raises over a picture into one line that names it."""
    try:
        with warnings.catch_warnings():
            # Our own limit is stricter than the one that PIL warns at.
            warnings.simplefilter("ignore")
            yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{name} is not a picture. Give a JPEG, PNG, WebP, GIF or TIFF."
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{name}: {_too_large()}") from error
    except Exception as error:  # a damaged file can make PIL raise almost anything
        raise UnreadableImageError(
            f"{name} is damaged or not fully there ({one_line(error, limit=120)}). "
            "Fetch or save it again."
        ) from error


def _too_large() -> str:
    return f"larger than {MAX_PIXELS // 1_000_000} megapixels. Scale it down first."


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels, {_too_large()}")
    if not width or not height:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels: there is nothing to see.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"{name} is {width} x {height} pixels, narrower than 1:{MAX_ASPECT}. Crop it first."
        )
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    return _flatten(image)


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale greys of more than 8 bits down, where PIL's own conversion would cut them off."""
    grey = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        # Floats have no agreed range: [0, 1] where they fit, else [0, 255].
        scale = 255.0 if grey.max(initial=0) <= 1 else 1.0
    else:
        scale = 1.0 if grey.max(initial=0) <= 255 and image.mode == "I" else 255 / 65_535
    return Image.fromarray(np.clip(grey * scale, 0, 255).round().astype(np.uint8))


def _download(url: str, allow_private: bool) -> bytes:
    from clip2clap.core.http import FetchError, fetch

    limits = {"max_bytes": MAX_DOWNLOAD_BYTES, "seconds": DOWNLOAD_SECONDS}
    try:
        return fetch(url, **limits, allow_private=allow_private)
    except FetchError as error:
        raise UnreadableImageError(
            f"{url} can't be fetched: {error}. Check the address and the network, or download the "
            "image first."
        ) from error
