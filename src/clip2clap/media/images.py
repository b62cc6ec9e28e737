"""Images: reading from anywhere into RGB, writing, grids, and tensors of pixels."""

import contextlib
import functools
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import is_url, replacing
from clip2clap.media.arrays import open_file, to_array, to_file, to_image
from clip2clap.media.image_formats import gray_to_8_bit, is_gray, read_planes, without_side_chunks

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
"""Maximum pixels of an image file; decoding more would need gigabytes."""

KEPT_PIXELS = 2**24
"""Maximum pixels of a loaded image; a larger file is reduced, and one is decoded at a time."""

MAX_ASPECT = 100
"""Largest ratio of an image's sides; upsampling the short side would need gigabytes."""

MAX_DOWNLOAD_BYTES = 50_000_000
"""Most bytes of a download."""

DOWNLOAD_SECONDS = 30.0
"""Time limit of a download, in s."""

SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif"),
        *(".heic", ".heif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
    }
)
"""Suffixes of the files that are read from a folder."""

_READ_FORMATS = (
    *("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF"),
    *("JPEG2000", "PPM", "ICO"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
# Beginnings of files of other formats.
_OTHER_FORMATS = {
    b"8BPS": "a Photoshop document",
    b"\xff\x0a": "a JPEG XL image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document or SVG drawing",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"%PDF": "a PDF document",
    b"%!PS": "a PostScript document",
    b"DDS ": "a DDS texture",
    b"qoif": "a QOI image",
    b"v/1\x01": "an OpenEXR image",
    b"#?RADIANCE": "a Radiance HDR image",
    b"\x1f\x8b": "a gzip archive",
    b"PK\x03\x04": "a zip archive",
}
_ORIENTATION_TAG = 0x0112
_TIFF_BEGINNINGS = (b"II*\0", b"MM\0*")
_TURNS = dict(
    enumerate(
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        start=2,
    )
)
_WRITE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
_WRITE_OPTIONS = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}}


class UnreadableImageError(UserError):
    """Error of an image that cannot be read; the message names it and the fix."""


def load_image(source: Any, *, allow_private: bool = False, name: str = "the image") -> Image.Image:
    """Load an image as 8-bit RGB, upright by its EXIF tag, on white where it is transparent.

    Reads JPEG, PNG, WebP, GIF (the first frame), TIFF, BMP, AVIF, JPEG 2000, PPM and ICO, palettes
    and grays of up to 32 bits included, and HEIC where `pillow-heif` is installed.

    Args:
        source: A path, an http(s) URL, an opened image, a file's bytes, an opened file, an item of
            a `datasets` image column, or an array or tensor, shape (height, width), (height,
            width, channels) or (channels, height, width), uint8 or floats in [0, 1].
        allow_private: Also fetch URLs of private addresses: this machine and its network.
        name: Name of a source without a path, for messages.

    Returns:
        The image in mode RGB, of at most `KEPT_PIXELS` pixels.

    Raises:
        UnreadableImageError: If it cannot be read, is larger than `MAX_PIXELS`, or its sides'
            ratio exceeds `MAX_ASPECT`.
        UserError: If the source is of another type, or an array is no image.

    Examples:
        >>> load_image("dog.jpg").mode
        'RGB'
    """
    if (array := to_array(source)) is not None:
        source = to_image(array, name, channels_first=hasattr(source, "detach"))
    if isinstance(source, Image.Image):
        with _explained(name):
            return _to_rgb(source, name)
    source = to_file(source, name)
    if not isinstance(source, str):
        if not isinstance(source, bytes) and not hasattr(source, "read"):
            raise UserError(
                f"Expected {name} as a path, a URL, a PIL image, an array, a file's bytes or "
                f"opened file, or a dictionary with bytes or path, got {type(source).__name__}."
            )
        return _decode(source, name)
    if is_url(source):
        return _decode(download_image(source, allow_private), source)
    with open_file(source, UnreadableImageError) as file:
        return _decode(file, source)


def write_image(path: str | Path, image: Image.Image, *, description: str | None = None) -> None:
    """Write an image atomically, as PNG, JPEG or WebP.

    Args:
        path: File to write, replaced if it exists, named .png, .jpg or .webp; its folder must
            exist.
        image: The image.
        description: Text for its EXIF metadata, see `read_description`.

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
    options = _WRITE_OPTIONS.get(format, {})
    if description is not None:
        exif = Image.Exif()
        # EXIF 3 allows UTF-8, which Pillow writes if it gets bytes.
        exif[ExifTags.Base.ImageDescription] = description.encode()
        options = {**options, "exif": exif}
    with replacing(path) as partial:
        image.save(partial, format, **options)


def read_description(path: str | Path) -> str | None:
    """Return the description in the EXIF metadata of an image file, None without one.

    Examples:
        >>> write_image("red.png", Image.new("RGB", (8, 8), "red"), description="a red square")
        >>> read_description("red.png")
        'a red square'
    """
    with Image.open(path) as image:
        text = image.getexif().get(ExifTags.Base.ImageDescription)
    if isinstance(text, bytes):
        return text.decode(errors="replace")
    return None if text is None else text.encode("latin-1").decode(errors="replace")


def image_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Arrange images of one size, at least one, in a grid, row by row; empty cells are white."""
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


def _decode(file: IO[bytes] | bytes, name: str) -> Image.Image:
    file = io.BytesIO(file) if isinstance(file, bytes) else file
    head = file.read(12)
    file.seek(0)
    if not head:
        raise UnreadableImageError(f"{name} is empty. Fetch or save it again.")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _register_heif(name)
    # Naming the formats keeps PIL's rarer readers away from files of unknown origin.
    Image.init()
    formats = [known for known in _READ_FORMATS if known in Image.OPEN]
    with _explained(name, head):
        file = without_side_chunks(file) if head.startswith(b"\x89PNG") else file
        with Image.open(file, formats=formats) as image:
            return _to_rgb(image, name, is_file=True)


def _register_heif(name: str) -> None:
    try:
        from pillow_heif import register_heif_opener  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UnreadableImageError(
            f"{name} is a HEIC image, which needs another package: pip install pillow-heif."
        ) from error
    register_heif_opener()


@contextlib.contextmanager
def _explained(name: str, head: bytes = b"") -> Iterator[None]:
    """Turn any error of PIL into one line that names the image, whose file begins with `head`."""
    try:
        with warnings.catch_warnings():
            # Our own limit is stricter than the one that PIL warns at.
            warnings.simplefilter("ignore")
            yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        why = "is not an image that can be read. Give a JPEG, PNG, WebP, GIF, TIFF, BMP or AVIF."
        other = next((kind for start, kind in _OTHER_FORMATS.items() if _starts(head, start)), None)
        if other is not None:
            why = f"is {other}, not an image that can be read. Save it as a JPEG, PNG or WebP."
        if head[:4] in _TIFF_BEGINNINGS:
            why = "is a TIFF of a kind that PIL can't read. Save it with 8 bits per channel."
        raise UnreadableImageError(f"{name} {why}") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"{name}: {_too_large()}") from error
    except Exception as error:  # a damaged file can make PIL raise almost anything
        raise UnreadableImageError(
            f"{name} is damaged or truncated ({one_line(error, limit=120)}). Fetch or save it "
            "again."
        ) from error


def _starts(head: bytes, start: bytes) -> bool:
    return head.lstrip().lower().startswith(start.lower())


def _too_large() -> str:
    return f"larger than {MAX_PIXELS // 1_000_000} megapixels. Scale it down first."


def _to_rgb(image: Image.Image, name: str, *, is_file: bool = False) -> Image.Image:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels, {_too_large()}")
    if not width or not height:
        raise UnreadableImageError(f"{name} is {width} x {height} pixels: it has no content.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImageError(
            f"{name} is {width} x {height} pixels, narrower than 1:{MAX_ASPECT}. Crop it first."
        )
    if width * height <= KEPT_PIXELS:
        return _flattened(image)
    if is_file:
        # A JPEG can be decoded at a half, a quarter or an eighth of its size.
        factor = _factor(image)
        image.draft(None, (width // factor, height // factor))
    # Decoding takes memory for all pixels, which the C library keeps for each thread.
    return _large_decoder(os.getpid()).submit(_flattened, image).result()


@functools.cache
def _large_decoder(process: int) -> ThreadPoolExecutor:
    """Return the one thread that decodes a process's large images; a fork has its own."""
    return ThreadPoolExecutor(1, f"clip2clap-large-images-{process}")


def _factor(image: Image.Image) -> int:
    return math.ceil(math.sqrt(image.width * image.height / KEPT_PIXELS))


def _flattened(image: Image.Image) -> Image.Image:
    """Return an image upright, in 8 bits, on white."""
    source, image = image, read_planes(image)
    image.load()
    try:
        turn = _TURNS.get(source.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF data, of which PIL may raise anything, are no damaged pixels
        turn = None
    factor = _factor(image)
    if is_gray(image):
        image = gray_to_8_bit(image, factor)
    elif factor > 1:
        # Palettes have no colors in between.
        smooth = {"1": "L", "P": "RGBA", "PA": "RGBA"}
        # Converting to the same mode would copy all pixels.
        image = image.convert(smooth[image.mode]) if image.mode in smooth else image
        image = image.reduce(factor)
    if turn is not None:
        image = image.transpose(turn)
        # The tag would turn the image again when it is loaded again.
        for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
            image.info.pop(key, None)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def download_image(url: str, allow_private: bool) -> bytes:
    """Return the bytes of a URL; raises an `UnreadableImageError` if it cannot be fetched."""
    from clip2clap.core.http import FetchError, PrivateAddressError, fetch

    try:
        return fetch(
            url,
            max_bytes=MAX_DOWNLOAD_BYTES,
            seconds=DOWNLOAD_SECONDS,
            allow_private=allow_private,
        )
    except PrivateAddressError as error:
        raise UnreadableImageError(
            f"{url} can't be fetched: {error}. Load it with allow_private=True, or download the "
            "image first."
        ) from error
    except FetchError as error:
        raise UnreadableImageError(
            f"{url} can't be fetched: {error}. Check the address and the network, or download the "
            "image first."
        ) from error
