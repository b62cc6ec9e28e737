import contextlib
import http.server
import io
import socket
import struct
import sys
import threading
import time
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from clip2clap.core.errors import UserError
from clip2clap.media import images
from clip2clap.media.images import UnreadableImageError, load_image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves(mode="RGB") -> Image.Image:
    """Red on the left, blue on the right, 8 x 4."""
    picture = Image.new("RGB", (8, 4), RED)
    picture.paste(BLUE, (4, 0, 8, 4))
    return picture.convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".webp", {"lossless": True}),
        (".tiff", {}),
        (".gif", {}),
        (".bmp", {}),
        (".jp2", {}),
        (".ppm", {}),
        (".ico", {"sizes": [(8, 4)]}),
        (".jfif", {"quality": 100, "subsampling": 0}),
        (".avif", {"quality": 100, "subsampling": "4:4:4"}),
        (".jpg", {"quality": 100, "subsampling": 0}),
    ],
)
def test_every_format_gives_its_colours(tmp_path, suffix, options):
    path = tmp_path / f"picture{suffix}"
    two_halves().save(path, **options)
    pixels = np.asarray(load_image(path)).astype(int)
    assert pixels.shape == (4, 8, 3)
    assert np.abs(pixels[0, 0] - RED).max() <= 3
    assert np.abs(pixels[0, 7] - BLUE).max() <= 3


def test_a_path_an_opened_image_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "picture.png"
    two_halves().save(path)
    expected = np.asarray(two_halves())
    data = path.read_bytes()
    after_the_end = io.BytesIO(data)
    after_the_end.read()
    for source in (
        path,
        str(path),
        Image.open(path),
        data,
        bytearray(data),
        io.BytesIO(data),
        after_the_end,
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"path": path},
    ):
        assert np.array_equal(np.asarray(load_image(source)), expected)


def test_an_image_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it upright
    path = tmp_path / "turned.jpg"
    two_halves().save(path, exif=exif, quality=100, subsampling=0)
    upright = np.asarray(load_image(path)).astype(int)
    assert upright.shape == (8, 4, 3)
    assert np.abs(upright[0, 0] - RED).max() <= 3
    assert np.array_equal(np.asarray(load_image(Image.open(path))), upright)


def jpeg_with_exif(exif: bytes) -> bytes:
    """Red on the left, blue on the right, with any bytes as EXIF data."""
    file = io.BytesIO()
    two_halves().save(file, "JPEG", quality=100, subsampling=0)
    segment = b"Exif\0\0" + exif
    marker = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    return file.getvalue()[:2] + marker + file.getvalue()[2:]


def exif_of(*entries: tuple[int, int, int, bytes], data: bytes = b"") -> bytes:
    """A TIFF header and one directory of (tag, type, count, value or offset)."""
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + bytes(4) + data


ORIENTATION = (0x0112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("exif", "is_turned"),
    [
        (b"no TIFF at all", False),
        (b"", False),
        (b"II*\0\xff\xff\xff\xff", False),
        # Rationals of (-1, 0) and beyond the end (Pillow 8965).
        (
            exif_of(
                ORIENTATION, (0x829D, 10, 1, struct.pack("<I", 38)), data=b"\xff" * 4 + bytes(4)
            ),
            1,
        ),
        (exif_of(ORIENTATION, (0x829A, 5, 1, struct.pack("<I", 9999))), 1),
        (exif_of((0x0112, 2, 2, b"6\0\0\0")), False),
        (exif_of((0x0112, 3, 1, struct.pack("<HH", 77, 0))), False),
    ],
)
def test_damaged_exif_data_are_no_damaged_image(exif, is_turned):
    pixels = np.asarray(load_image(jpeg_with_exif(exif))).astype(int)
    assert pixels.shape == ((8, 4, 3) if is_turned else (4, 8, 3))
    assert np.abs(pixels[0, 0] - RED).max() <= 3
    assert np.abs(pixels[-1, -1] - BLUE).max() <= 3


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow_and_is_applied_once(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8)
    options = {".jpg": {"quality": 95}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(pixels).save(tmp_path / f"turned{suffix}", exif=exif, **options)
    with Image.open(tmp_path / f"turned{suffix}") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    once = load_image(tmp_path / f"turned{suffix}")
    assert np.array_equal(np.asarray(once), expected)
    assert np.array_equal(np.asarray(load_image(once)), expected)


@pytest.mark.parametrize("kind", [b"zTXt", b"tEXt", b"iTXt"])
def test_a_png_with_megabytes_of_text_is_an_image(kind):
    info = PngInfo()
    if kind == b"iTXt":
        info.add_itxt("workflow", "x" * 2_000_000, zip=True)
    else:
        info.add_text("workflow", "x" * 2_000_000, zip=kind == b"zTXt")
    file = io.BytesIO()
    two_halves().save(file, "PNG", pnginfo=info)
    assert kind in file.getvalue()
    assert np.array_equal(np.asarray(load_image(file)), np.asarray(two_halves()))


def test_a_heic_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    with pytest.raises(UnreadableImageError, match="pip install pillow-heif"):
        load_image(tmp_path / "a.heic")


def test_a_heic_is_read_where_its_package_is_installed(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    two_halves().resize((64, 32)).save(tmp_path / "a.heic", quality=95)
    difference = np.asarray(load_image(tmp_path / "a.heic")).astype(int)
    difference -= np.asarray(two_halves().resize((64, 32)))
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("kind", [b"pHYs", b"gAMA", b"eXIf", b"cHRM", b"tEXt", b"prVW"])
def test_a_png_is_an_image_whose_damaged_chunk_holds_no_pixels(kind):
    file = io.BytesIO()
    two_halves().save(file, "PNG")
    content = file.getvalue()
    damaged = content[:33] + struct.pack(">I", 3) + kind + b"abcd\0\0\0" + content[33:]
    assert np.array_equal(np.asarray(load_image(damaged)), np.asarray(two_halves()))


def test_a_png_with_a_large_color_profile_is_an_image():
    file = io.BytesIO()
    two_halves().save(file, "PNG", icc_profile=bytes(3_000_000))
    assert b"iCCP" in file.getvalue()
    assert np.array_equal(np.asarray(load_image(file)), np.asarray(two_halves()))


def test_a_tiff_of_floats_in_color_says_what_to_save():
    # Little-endian, one directory: 2 x 1 pixels of three floats of 32 bits.
    tags = {256: 2, 257: 1, 258: 32, 259: 1, 262: 2, 273: 200, 277: 3, 278: 1, 279: 24, 339: 3}
    entries = [struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items()]
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries)
    with pytest.raises(UnreadableImageError, match="Save it with 8 bits per channel"):
        load_image(content.ljust(200, b"\0") + bytes(24))


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


@pytest.mark.parametrize(
    "gray",
    [
        RAMP.astype(np.float32),
        (RAMP * 1.04).clip(0, None).astype(np.float32) - np.float32(0.02),
        (RAMP * 255).astype(np.float32),
        (RAMP * 65_535).astype(np.float32),
        (RAMP * 3000 - 1000).astype(np.float32),
        (RAMP * 765 - 300).astype(np.float32),
        (RAMP * 2 - 1).astype(np.float32),
        (RAMP * 1000).astype(np.float32),
        (RAMP * 9000).astype(np.int32),
        (RAMP * 65_535).astype(np.uint16),
        (RAMP * 4095).astype(np.uint16),
        (RAMP * 255).astype(np.uint16),
        (RAMP * 65_535).astype(np.int32),
        (RAMP * (2**31 - 1)).astype(np.int32),
    ],
    ids=lambda gray: f"{gray.dtype} {gray.min():.4g} to {gray.max():.4g}",
)
def test_grays_of_any_range_are_neither_black_nor_white(tmp_path, gray):
    Image.fromarray(gray).save(tmp_path / "gray.tif")
    pixels = np.asarray(load_image(tmp_path / "gray.tif"))[..., 0].astype(int)
    assert np.abs(pixels - RAMP * 255).max() <= 6


@pytest.mark.parametrize(
    "gray", [(RAMP * 65_535).astype(np.uint16), (RAMP * 4095).astype(np.uint16), np.float32(RAMP)]
)
def test_grays_of_a_tiff_whose_zero_is_white_are_inverted(tmp_path, gray):
    Image.fromarray(gray).save(tmp_path / "gray.tif", tiffinfo={262: 0})
    pixels = np.asarray(load_image(tmp_path / "gray.tif"))[..., 0].astype(int)
    assert np.abs(pixels - (1 - RAMP) * 255).max() <= 1


def test_one_pixel_that_is_no_number_leaves_the_others(tmp_path):
    gray = (RAMP * 255).astype(np.float32)
    gray[3, 3] = np.nan
    gray[4, 4] = np.inf
    Image.fromarray(gray).save(tmp_path / "nan.tif")
    pixels = np.asarray(load_image(tmp_path / "nan.tif"))[..., 0].astype(int)
    difference = np.abs(pixels - RAMP * 255)
    assert np.sort(difference.flatten())[-3] <= 1


@pytest.mark.parametrize("missing", [-9999, -3.4e38, 3.4e38, 1e20])
@pytest.mark.parametrize("scale", [1, 255, 1000])
def test_a_value_that_stands_for_missing_pixels_leaves_the_others(missing, scale):
    gray = (RAMP * scale).astype(np.float32)
    gray[3, 3] = missing
    pixels = np.asarray(load_image(Image.fromarray(gray)))[..., 0].astype(int)
    assert np.sort(np.abs(pixels - RAMP * 255).flatten())[-2] <= 6


@pytest.mark.parametrize(("dtype", "missing"), [(np.int32, -32_768), (np.float32, -9999)])
def test_many_pixels_of_one_missing_value_leave_the_others(dtype, missing):
    gray = (RAMP * 2000).astype(dtype)
    gray[:, :2] = missing
    pixels = np.asarray(load_image(Image.fromarray(gray)))[..., 0].astype(int)
    least = RAMP[0, 2]
    expected = ((RAMP - least) / (1 - least) * 255)[:, 2:]
    assert np.abs(pixels[:, 2:] - expected).max() <= 2


def test_the_value_that_gdal_names_as_missing_is_none():
    gray = (RAMP * 3000 - 1500).astype(np.float32)
    gray[:, :4] = 2000
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "TIFF", tiffinfo={42_113: "2000"})
    pixels = np.asarray(load_image(file.getvalue()))[..., 0]
    assert pixels[:, 4:].max() == 255
    assert pixels[0, 4] == 0


def tiff(pixels: np.ndarray, **tags: int) -> bytes:
    """A TIFF of one strip for each plane, little-endian; tags are named `t` and their number."""
    planes, height, width = pixels.shape
    content = b"".join(plane.tobytes() for plane in pixels)
    bits, size, start = 8 * pixels.itemsize, len(content) // planes, 400
    values = {256: [width], 257: [height], 258: [bits] * planes, 259: [1], 262: [1], 277: [planes]}
    values |= {273: [start + n * size for n in range(planes)], 278: [height], 279: [size] * planes}
    values |= {int(name[1:]): [value] for name, value in tags.items()}
    entries, data = b"", b""
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"<{len(numbers)}H", *numbers)
        place = struct.pack("<I", 200 + len(data)) if len(packed) > 4 else packed.ljust(4, b"\0")
        data += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(4)
    return (head.ljust(200, b"\0") + data).ljust(start, b"\0") + content


def test_channels_of_16_bits_that_are_apart_are_read_as_those_that_are_not():
    colors = np.stack([RAMP, RAMP[::-1], RAMP.T])
    content = tiff((colors * 65_535).astype("<u2"), t262=2, t284=2)
    pixels = np.asarray(load_image(content)).transpose(2, 0, 1)
    assert np.abs(pixels - colors * 255).max() <= 1
    tiled = content.replace(struct.pack("<HHI", 273, 3, 3), struct.pack("<HHI", 272, 3, 3))
    with pytest.raises(UnreadableImageError, match=r"separate tiles|damaged|can't read"):
        load_image(tiled)


def test_grays_without_a_sample_format_are_unsigned_and_signed_ones_do_not_wrap():
    unsigned = load_image(tiff((RAMP * (2**32 - 1)).astype("<u4")[None]))
    signed = load_image(tiff((RAMP * 255 - 128).astype(np.int8)[None], t339=2))
    for image in (unsigned, signed):
        assert np.abs(np.asarray(image)[..., 0] - RAMP * 255).max() <= 2


@pytest.mark.parametrize("is_packed", [False, True])
def test_exif_data_in_a_text_chunk_turn_the_image(is_packed):
    raw = b"Exif\0\0" + exif_of(ORIENTATION)
    info = PngInfo()
    text = f"\nexif\n{len(raw):8d}\n{raw.hex()}\n"
    info.add_text("Raw profile type exif", text, zip=is_packed)
    file = io.BytesIO()
    Image.new("RGB", (64, 40)).save(file, "PNG", pnginfo=info)
    assert load_image(file.getvalue()).size == (40, 64)
    info.add_text("Raw profile type exif", "0" * 2**22, zip=True)
    Image.new("RGB", (64, 40)).save(file := io.BytesIO(), "PNG", pnginfo=info)
    load_image(file.getvalue())


def test_a_closed_file_and_no_path_are_named():
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(UserError, match="a file that was closed"):
        load_image(file)
    with pytest.raises(UnreadableImageError, match="got an empty string"):
        load_image("")


def test_an_image_without_a_finite_pixel_is_refused():
    with pytest.raises(UnreadableImageError, match="no pixel is a finite number"):
        load_image(Image.fromarray(np.full((8, 8), np.nan, np.float32)))


@pytest.mark.parametrize("mode", ["1", "P", "L", "RGB", "RGBA", "I;16", "F", "CMYK", "JPEG"])
def test_a_large_image_is_reduced(monkeypatch, mode):
    monkeypatch.setattr(images, "KEPT_PIXELS", 64 * 64)
    gray = np.repeat(np.linspace(0, 255, 300), 200).reshape(300, 200)
    if mode in ("I;16", "F"):
        scale, dtype = (257, np.uint16) if mode == "I;16" else (1, np.float32)
        picture = Image.fromarray((gray * scale).astype(dtype))
    else:
        own = "L" if mode == "JPEG" else mode
        picture = Image.fromarray(gray.astype(np.uint8)).convert("RGB").convert(own)
    file = io.BytesIO()
    picture.save(file, "JPEG" if mode == "JPEG" else "TIFF")
    loaded = load_image(file)
    assert loaded.width * loaded.height <= 64 * 64
    assert loaded.height / loaded.width == pytest.approx(1.5, abs=0.1)
    rows = np.asarray(loaded.convert("L")).astype(float)
    assert rows[:4].mean() < 40
    assert rows[-4:].mean() > 215


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_put_on_white(tmp_path, mode):
    path = tmp_path / "see_through.png"
    if mode == "P":
        picture = Image.new("P", (2, 1))
        picture.putpalette([*BLUE, *RED])
        picture.putpixel((1, 0), 1)
        picture.save(path, transparency=0)
    elif mode == "RGB":
        picture = Image.new("RGB", (2, 1), BLUE)
        picture.putpixel((1, 0), RED)
        picture.save(path, transparency=BLUE)
    else:
        picture = Image.new("RGBA", (2, 1), (*BLUE, 0))
        picture.putpixel((1, 0), (*RED, 255))
        picture = picture.convert(mode)
        picture.save(path)
    pixels = np.asarray(load_image(path))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() != [255, 255, 255]


def test_half_transparent_colours_are_mixed_with_white():
    picture = Image.new("RGBA", (1, 1), (255, 0, 0, 128))
    assert np.asarray(load_image(picture))[0, 0].tolist() == [255, 127, 127]


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert np.asarray(load_image(tmp_path / name))[0, 0, 0] > 250


def test_greys_of_16_bits_keep_their_range(tmp_path):
    grey = np.array([[0, 32_896, 65_535]], dtype=np.uint16)
    for name in ("deep.png", "deep.tiff"):
        Image.fromarray(grey).save(tmp_path / name)
        assert np.asarray(load_image(tmp_path / name))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV", "LAB", "P", "I", "F"])
def test_every_mode_becomes_rgb(mode):
    picture = Image.new("L", (3, 2), 200).convert("RGB")
    picture = picture.convert("L") if mode in ("1", "I", "F") else picture
    loaded = load_image(picture.convert(mode) if mode != "LAB" else Image.new("LAB", (3, 2)))
    assert loaded.mode == "RGB"
    assert loaded.size == (3, 2)
    if mode in ("L", "I", "F", "CMYK"):
        assert np.abs(np.asarray(loaded).astype(int) - 200).max() <= 3


def test_one_pixel_is_an_image():
    assert load_image(Image.new("RGB", (1, 1), RED)).getpixel((0, 0)) == RED


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", r"empty.jpg is empty"),
        ("text.jpg", b"dear diary, today I saw a dog", r"text.jpg is not an image"),
        ("huge.png", png_header(20_000, 20_000), r"huge.png.*megapixels"),
        ("large.png", png_header(11_000, 10_000), r"11000 x 10000 pixels, larger than 100 mega"),
        ("bomb.png", png_header(2**31 - 1, 2**31 - 1), r"bomb.png.*megapixels"),
        ("cut.png", png_header(100, 100), r"cut.png is damaged or truncated"),
        ("ribbon.png", png_header(10_000, 2), r"ribbon.png.*narrower than 1:100"),
    ],
)
def test_what_cannot_be_read_is_reported_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=message) as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_an_image_that_breaks_off_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(UnreadableImageError, match="damaged or truncated"):
        load_image(tmp_path / "half.jpg")


def small_file(kind: str) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves().save(file, kind, **({} if kind == "GIF" else {"exif": exif}))
    return file.getvalue()


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF"]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    length=st.floats(0, 1),
)
def test_a_damaged_file_is_read_or_refused_but_never_breaks_the_program(kind, changes, length):
    data = bytearray(small_file(kind))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(UnreadableImageError):
        assert load_image(bytes(data[: round(length * len(data))])).mode == "RGB"


def test_an_image_that_was_opened_but_not_read_yet_is_named_too(tmp_path):
    (tmp_path / "cut.png").write_bytes(png_header(100, 100))
    with pytest.raises(UnreadableImageError, match="the image is damaged"):
        load_image(Image.open(tmp_path / "cut.png"))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"No such file: \S*nowhere.jpg"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImageError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".eps", "a PostScript document"), (".dds", "a DDS texture"), (".pdf", "a PDF document")],
)
def test_other_formats_are_named_and_not_opened(tmp_path, suffix, message):
    two_halves().save(tmp_path / f"picture{suffix}")
    with pytest.raises(UnreadableImageError, match=f"picture{suffix} is {message}"):
        load_image(tmp_path / f"picture{suffix}")


agents: list[str] = []
"""User agents of the requests that the server got."""


@pytest.fixture
def server():
    agents.clear()
    png = io.BytesIO()
    two_halves().save(png, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            agents.append(self.headers["User-Agent"])

            def send(data, *, times, pause):
                with contextlib.suppress(OSError):  # the reader may hang up
                    for _ in range(times):
                        self.wfile.write(data)
                        time.sleep(pause)

            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/picture.png")
                self.end_headers()
                return
            status = 404 if self.path == "/missing.png" else 200
            self.send_response(status)
            self.end_headers()
            if self.path == "/picture.png":
                self.wfile.write(png.getvalue())
            elif self.path == "/endless.png":
                send(b"\0" * 1000, times=100, pause=0)
            elif self.path == "/drip.png":
                send(b"\0", times=100, pause=0.1)
            elif self.path == "/page.html":
                self.wfile.write(b"<html>")

        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_an_address_is_fetched(server):
    for path in ("/picture.png", "/moved"):
        loaded = load_image(server + path, allow_private=True)
        assert np.array_equal(np.asarray(loaded), np.asarray(two_halves()))
    assert all(agent.startswith("clip2clap/") for agent in agents)


def test_an_address_that_gives_no_image_is_reported_in_one_line(server, monkeypatch):
    monkeypatch.setattr(images, "MAX_DOWNLOAD_BYTES", 20_000)
    monkeypatch.setattr(images, "DOWNLOAD_SECONDS", 1.0)
    for address, message in (
        (f"{server}/missing.png", "answers 404"),
        (f"{server}/page.html", "not an image"),
        (f"{server}/endless.png", "larger than"),
        ("http://127.0.0.1:9/x.png", "Check the address and the network"),
        (f"{server}/drip.png", "within 1 s"),
        ("http:///x.png", "Check the address"),
        ("https://[bad/x.png", "Check the address"),
    ):
        with pytest.raises(UnreadableImageError, match=message) as error:
            load_image(address, allow_private=True)
        assert address in str(error.value)
        assert "\n" not in str(error.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(images, "DOWNLOAD_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        with pytest.raises(UnreadableImageError, match=r"0\.2 s"):
            load_image(address, allow_private=True)


def test_private_addresses_are_refused_where_they_are_not_allowed(server):
    with pytest.raises(UnreadableImageError, match=r"no public address.*allow_private=True"):
        load_image(f"{server}/picture.png")
    assert not agents


def halves_array(dtype: Any = np.uint8) -> np.ndarray:
    return np.asarray(two_halves()).astype(dtype)


@pytest.mark.parametrize(
    "array",
    [
        halves_array(),
        halves_array().transpose(2, 0, 1),
        halves_array(np.float32) / 255,
        halves_array(np.float64).transpose(2, 0, 1) / 255,
        halves_array(np.int64),
        halves_array(np.uint16) * 257,
        halves_array(np.uint16),
        (halves_array(np.uint16) * 16.06).round().astype(np.uint16),
        torch.from_numpy(halves_array()).permute(2, 0, 1).to_sparse(),
        halves_array() > 0,
        np.concatenate([halves_array(), np.full((4, 8, 1), 255, np.uint8)], axis=2),
        torch.from_numpy(halves_array()).permute(2, 0, 1),
        torch.from_numpy(halves_array(np.float32) / 255).permute(2, 0, 1).bfloat16(),
        (torch.from_numpy(halves_array(np.float32) / 255).permute(2, 0, 1)).requires_grad_(),
        halves_array().tolist(),
    ],
    ids=lambda array: f"{type(array).__name__} {getattr(array, 'dtype', '')}",
)
def test_arrays_and_tensors_are_images(array):
    assert np.array_equal(np.asarray(load_image(array)), halves_array())


def test_an_array_without_channels_is_gray():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for array in (gray, gray[..., None], torch.from_numpy(gray)[None]):
        assert np.array_equal(np.asarray(load_image(array))[..., 2], gray)


def test_three_by_three_by_three_is_read_as_its_library_does():
    values = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(np.asarray(load_image(values)), values)
    turned = np.asarray(load_image(torch.from_numpy(values)))
    assert np.array_equal(turned, values.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((2, 4, 8, 3), np.uint8), "one image at a time"),
        (np.zeros((5, 8, 6), np.uint8), "of 1, 3 or 4 channels"),
        (np.zeros(9, np.uint8), "one image at a time"),
        (np.zeros((0, 8, 3), np.uint8), "got shape"),
        (halves_array(np.float32), r"floats in \[0, 1\].*divide values up to 255"),
        (np.full((4, 8, 3), -1.0), r"floats in \[0, 1\].*normalization"),
        (np.full((4, 8, 3), np.nan), r"floats in \[0, 1\]"),
        (np.full((4, 8, 3), 300), "integers from 0 to 255"),
        (np.full((4, 8, 3), 1j), r"the image as a path.*, got ndarray"),
        (io.StringIO("text"), "opened as text"),
        (torch.empty(3, 4, 8, device="meta"), "NumPy can hold, got torch.float32 on meta"),
        ({"url": "x"}, "with bytes or path, got the keys url"),
        ({}, "got the keys none"),
        (7, r"Expected the image as a path, .*, got int"),
        (None, "got NoneType"),
        (["a.jpg"], "got list"),
        (io.BytesIO(), "is empty"),
        (b"", "is empty"),
        ("a\0b.jpg", "embedded null byte"),
    ],
)
def test_what_is_no_image_says_what_to_give(source, words):
    with pytest.raises(UserError, match=words):
        load_image(source)


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path):
    (tmp_path / "a.jpg").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UnreadableImageError, match=r"a\.jpg is a Git LFS pointer, not the file"):
        load_image(str(tmp_path / "a.jpg"))
