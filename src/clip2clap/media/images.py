"""Images: reading from anywhere into RGB, writing, grids, and tensors of pixels."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
"""Maximum pixels of an image; decoding more would need gigabytes."""

MAX_ASPECT = 100
"""Largest ratio of an image's sides; upsampling the short side would need gigabytes."""

MAX_DOWNLOAD_BYTES = 50_000_000
"""Most bytes of a download."""

DOWNLOAD_SECONDS = 30.0
"""Time limit of a download, in s."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff"})
"""Suffixes of the files that are read from a folder."""

_READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF")
_WRITE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
_WRITE_OPTIONS = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


class UnreadableImageError(UserError):
    """Error of an image that cannot be read; the message names it and the fix."""


def load_image(
    source: str | Path | Image.Image | bytes, *, allow_private: bool = True
) -> Image.Image:
    """Load an image as 8-bit RGB, upright by its EXIF tag, on white where it is transparent.

    Reads JPEG, PNG, WebP, GIF (the first frame) and TIFF, palettes and 16-bit grays included.

    Args:
        source: A path, an http(s) URL, an opened image, or a file's bytes.
        allow_private: Also fetch URLs of private addresses: this machine and its network.

    Returns:
        The image in mode RGB.

    Raises:
        UnreadableImageError: If it cannot be read, is larger than `MAX_PIXELS`, or its sides'
            ratio exceeds `MAX_ASPECT`.

    Examples:
        >>> load_image("dog.jpg").mode
        'RGB'
    """
    if isinstance(source, Image.Image):
        with _explained("the image"):
            return _to_rgb(source, "the image")
    if isinstance(source, bytes):
        return _decode(source, "the image")
    name = str(source)
    if is_url(name):
        return _decode(_download(name, allow_private), name)
    path = Path(source).expanduser()
    if path.is_dir():
        raise UnreadableImageError(f"{name} is a folder; give an image file.")
    if not path.exists():
        raise UnreadableImageError(f"{name} does not exist. Check the path.")
    try:
        if not path.stat().st_size:
            raise UnreadableImageError(f"{name} is empty. Fetch or save it again.")
        with path.open("rb") as file:
            return _decode(file, name)
    except OSError as error:
        raise UnreadableImageError(f"{name} can't be read: {error.strerror or error}.") from error


def write_image(path: str | Path, image: Image.Image) -> None:
    """Write an image atomically, as PNG, JPEG or WebP.

    Args:
        path: File to write, replaced if it exists, named .png, .jpg or .webp; its folder must
            exist.
        image: The image.

    Raises:
        UserError: If the name ends in anything else.

    Examples:
        >>> write_image("small.png", load_image("dog.jpg").resize((32, 32)))
        >>> load_image("small.png").size
        (32, 32)
    """
    path = Path(path)
    format = _WRITE_FORMATS.get(path.suffix.lower())
    if format is None:
        raise UserError(
            f"Cannot write {path.name!r}: expected a name that ends in .png, .jpg or .webp."
        )
    with replacing(path) as partial:
        image.save(partial, format, **_WRITE_OPTIONS.get(format, {}))


def image_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Arrange images of one size in a grid, row by row; empty cells are white.

    Args:
        images: At least one image.

    Raises:
        UserError: If there is no image.
    """
    if not images:
        raise UserError("Expected at least one image for a grid, got none.")
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    size = (columns * width, math.ceil(len(images) / columns) * height)
    grid = Image.new("RGB", size, "white")
    for place, image in enumerate(images):
        grid.paste(image, (place % columns * width, place // columns * height))
    return grid


def to_images(pixels: "Tensor") -> list[Image.Image]:
    """Convert pixels, shape (n, 3, height, width), in [0, 1], to RGB images."""
    import torch

    scaled = (pixels.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(image) for image in scaled.permute(0, 2, 3, 1).cpu().numpy()]


def to_pixels(images: Sequence[Image.Image], height: int, width: int) -> "Tensor":
    """Crop and resize images to pixels, shape (n, 3, height, width), float32, in [0, 1]."""
    import torch

    rows = [
        np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
        for image in images
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255


def is_url(source: str) -> bool:
    """Return True for an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def find_images(inputs: Sequence[str]) -> list[str]:
    """Replace each folder by the images in it, without its subfolders.

    Args:
        inputs: Files, folders and http(s) URLs.

    Returns:
        Files and URLs in the order given, those of a folder sorted by name.

    Raises:
        UserError: If a folder holds no image.
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
                f"The folder {name} holds no image ({', '.join(sorted(SUFFIXES))}); its subfolders "
                "are not searched."
            )
        found += [str(path) for path in inside]
    return found


def _decode(data: IO[bytes] | bytes, name: str) -> Image.Image:
    if isinstance(data, bytes):
        if not data:
            raise UnreadableImageError(f"{name} is empty. Fetch or save it again.")
        data = io.BytesIO(data)
    # Naming the formats keeps PIL's rarer readers away from files of unknown origin.
    with _explained(name), Image.open(data, formats=_READ_FORMATS) as image:
        return _to_rgb(image, name)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn any error of PIL into one line that names the image."""
    try:
        with warnings.catch_warnings():
            # Our own limit is stricter than the one that PIL warns at.
            warnings.simplefilter("ignore")
            yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{name} is not an image. Give a JPEG, PNG, WebP, GIF or TIFF."
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{name}: {_too_large()}") from error
    except Exception as error:  # a damaged file can make PIL raise almost anything
        raise UnreadableImageError(
            f"{name} is damaged or truncated ({one_line(error, limit=120)}). Fetch or save it "
            "again."
        ) from error


def _too_large() -> str:
    return f"larger than {MAX_PIXELS // 1_000_000} megapixels. Scale it down first."


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels, {_too_large()}")
    if not width or not height:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels: it has no content.")
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
        image = _gray_to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _gray_to_8_bit(image: Image.Image) -> Image.Image:
    """Scale grays of more than 8 bits down, where PIL's own conversion would clip them."""
    gray = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        # Floats have no agreed range: [0, 1] where they fit, else [0, 255].
        scale = 255.0 if gray.max(initial=0) <= 1 else 1.0
    else:
        scale = 1.0 if gray.max(initial=0) <= 255 and image.mode == "I" else 255 / 65_535
    return Image.fromarray(np.clip(gray * scale, 0, 255).round().astype(np.uint8))


def _download(url: str, allow_private: bool) -> bytes:
    from clip2clap.core.http import FetchError, fetch

    try:
        return fetch(
            url,
            max_bytes=MAX_DOWNLOAD_BYTES,
            seconds=DOWNLOAD_SECONDS,
            allow_private=allow_private,
        )
    except FetchError as error:
        raise UnreadableImageError(
            f"{url} can't be fetched: {error}. Check the address and the network, or download the "
            "image first."
        ) from error
