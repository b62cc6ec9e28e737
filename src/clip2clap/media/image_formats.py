"""PNG and TIFF files that PIL does not read as they mean it."""

import io
import zlib
from typing import IO, Any

import numpy as np
from PIL import Image

# PIL refuses other chunks that are large or damaged, and no pixel depends on them here.
_TRANSPARENCY_CHUNK = b"tRNS"
_ORIENTATION_CHUNKS = (b"eXIf", b"iTXt", b"tEXt", b"zTXt")
_XMP = b"XML:com.adobe.xmp\0\0"
_RAW_EXIF = b"Raw profile type exif\0"
_MAX_TEXT_BYTES = 2**16

_BITS_TAG = 258
_COMPRESSION_TAG = 259
_PHOTOMETRIC_TAG = 262
_STRIP_OFFSETS_TAG = 273
_STRIP_BYTES_TAG = 279
_PLANES_TAG = 284
_SAMPLE_FORMAT_TAG = 339
_NO_DATA_TAG = 42_113
_WHITE_IS_ZERO, _UNCOMPRESSED, _SEPARATE = 0, 1, 2
_UNSIGNED, _SIGNED = (1,), (2,)
# Full scales of grays of 1 (floats), 8, 12 and 16 bits.
_FULL_SCALES = (1.0, 255.0, 4095.0, 65_535.0)
# Share of the values, in percent, that may lie so many times the others' range away from them.
_TAIL, _FAR = 5.0, 2.0


def without_side_chunks(file: IO[bytes]) -> IO[bytes]:
    """Return a PNG without what no pixel depends on, which PIL refuses when large or damaged.

    Workflows and profiles of printers are large. What may hold the orientation is kept, if it is
    whole and small.
    """
    kept = [file.read(8)]
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        body = file.read(length + 4)
        is_kept = kind[:1].isupper() or kind == _TRANSPARENCY_CHUNK
        if kind in _ORIENTATION_CHUNKS and length < _MAX_TEXT_BYTES:
            is_whole = zlib.crc32(kind + body[:-4]) == int.from_bytes(body[-4:], "big")
            is_kept = is_whole and _may_turn(kind, body)
        if is_kept:
            kept += [head, body]
    return io.BytesIO(b"".join(kept))


def _may_turn(kind: bytes, body: bytes) -> bool:
    """Return whether a chunk may hold an orientation, in as few bytes as PIL accepts."""
    if kind == b"zTXt" and body.startswith(_RAW_EXIF):
        try:
            text = zlib.decompressobj().decompress(body[len(_RAW_EXIF) + 1 :], _MAX_TEXT_BYTES)
        except zlib.error:
            return False
        return len(text) < _MAX_TEXT_BYTES
    beginnings = {b"iTXt": _XMP, b"tEXt": _RAW_EXIF, b"eXIf": b""}
    return kind in beginnings and body.startswith(beginnings[kind])


def read_planes(image: Image.Image) -> Image.Image:
    """Return an unread TIFF whose channels of 16 bits are apart, which PIL garbles; others as is.

    Raises:
        ValueError: If they are in tiles.
    """
    tags = _tags(image)
    bits = tags.get(_BITS_TAG, ())
    is_garbled = (
        tags.get(_PLANES_TAG) == _SEPARATE
        and tags.get(_COMPRESSION_TAG, _UNCOMPRESSED) == _UNCOMPRESSED
        and len(bits) > 1
        and set(bits) == {16}
    )
    if not is_garbled:
        return image
    file: Any = getattr(image, "fp", None)
    if _STRIP_OFFSETS_TAG not in tags or file is None:
        raise ValueError("its channels of 16 bits are in separate tiles; save them interleaved")
    strips = []
    for start, size in zip(tags[_STRIP_OFFSETS_TAG], tags[_STRIP_BYTES_TAG], strict=True):
        file.seek(start)
        strips.append(file.read(size))
    order = ">u2" if tags.prefix == b"MM" else "<u2"
    planes = np.frombuffer(b"".join(strips), order).reshape(len(bits), image.height, image.width)
    pixels = (planes >> 8).astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels), image.mode)


def is_gray(image: Image.Image) -> bool:
    """Return whether an image has grays of other than 8 unsigned bits."""
    is_signed = image.mode == "L" and _tags(image).get(_SAMPLE_FORMAT_TAG) == _SIGNED
    return is_signed or image.mode in ("I", "F") or image.mode.startswith("I;16")


def gray_to_8_bit(image: Image.Image, step: int) -> Image.Image:
    """Scale every `step`-th gray to 8 unsigned bits, where PIL's own conversion would clip them.

    Neither floats nor integers state their full scale: it is the smallest usual one that holds the
    values. Others, such as elevations, are stretched from the least to the largest, and so are
    floats and 32-bit integers that use less than half of a scale above 255. The values that stand
    for missing ones, far from all others, are not among these.
    """
    gray = np.asarray(image)[::step, ::step]
    tags = _tags(image)
    if image.mode == "L":
        gray = gray.view(np.int8)
    if image.mode == "I" and tags and tags.get(_SAMPLE_FORMAT_TAG, _UNSIGNED) == _UNSIGNED:
        gray = gray.view(np.uint32)
    values = gray.astype(np.float64)
    seen = values[np.isfinite(values)]
    if not len(seen):
        raise ValueError("no pixel is a finite number")
    least, most = _range(seen, _no_data(tags))
    scales = _FULL_SCALES if image.mode == "F" else _FULL_SCALES[1:]
    # Sharpening and resizing overshoot a little, most in floats.
    margin = 0.1 if image.mode == "F" else 0.0
    full = next((scale for scale in scales if most <= scale * (1 + margin)), None)
    is_unusual = image.mode in ("F", "I") and full is not None and full > max(2 * most, 255)
    if full is None or is_unusual or least < -margin * max(most, 0):
        values, full = values - least, max(most - least, 1e-30)
    if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:  # PIL inverts 8 bits alone
        values = full - values
    values = np.nan_to_num(values / full * 255, nan=0.0, posinf=255.0, neginf=0.0)
    return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def _tags(image: Image.Image) -> Any:
    """Return the tags of a TIFF file; none of other images."""
    return getattr(image, "tag_v2", {})


def _no_data(tags: Any) -> float | None:
    """Return the value that stands for missing ones, as GDAL states it."""
    try:
        return float(str(tags.get(_NO_DATA_TAG)).strip("\0 "))
    except ValueError:
        return None


def _range(values: np.ndarray, missing: float | None) -> tuple[float, float]:
    """Return the least and the largest value; none far from the others if no usual scale fits."""
    present = values[values != missing]
    values = present if len(present) else values
    if values.min() < 0 or values.max() > _FULL_SCALES[-1]:
        for extreme in (values.min(), values.max()):
            others = values[values != extreme]
            if len(others):
                gap = max(others.min() - extreme, extreme - others.max())
                values = others if gap > _FAR * np.ptp(others) > 0 else values
        low, high = np.percentile(values, (_TAIL, 100 - _TAIL))
        reach = _FAR * (high - low)
        near = values[(values >= low - reach) & (values <= high + reach)]
        values = near if reach else values
    return float(values.min()), float(values.max())
