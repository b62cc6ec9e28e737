import contextlib
import http.server
import io
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media import images
from clip2clap.media.images import UnreadableImageError, find_images, load_image

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


def test_a_path_an_opened_picture_and_bytes_are_the_same(tmp_path):
    path = tmp_path / "picture.png"
    two_halves().save(path)
    expected = np.asarray(two_halves())
    for source in (path, str(path), Image.open(path), path.read_bytes()):
        assert np.array_equal(np.asarray(load_image(source)), expected)


def test_a_photograph_on_its_side_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to see it upright
    path = tmp_path / "turned.jpg"
    two_halves().save(path, exif=exif, quality=100, subsampling=0)
    upright = np.asarray(load_image(path)).astype(int)
    assert upright.shape == (8, 4, 3)
    assert np.abs(upright[0, 0] - RED).max() <= 3
    assert np.array_equal(np.asarray(load_image(Image.open(path))), upright)


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


def test_one_pixel_is_a_picture():
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
def test_what_cannot_be_read_is_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableImageError, match=message) as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_photograph_that_breaks_off_is_refused(tmp_path):
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


def test_a_picture_that_was_opened_but_not_read_yet_is_told_about_too(tmp_path):
    (tmp_path / "cut.png").write_bytes(png_header(100, 100))
    with pytest.raises(UnreadableImageError, match="the image is damaged"):
        load_image(Image.open(tmp_path / "cut.png"))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"nowhere.jpg does not exist"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(UnreadableImageError, match="is a folder"):
        load_image(tmp_path)


def test_formats_of_other_kinds_are_not_opened(tmp_path):
    two_halves().save(tmp_path / "picture.eps")
    with pytest.raises(UnreadableImageError, match="not an image"):
        load_image(tmp_path / "picture.eps")


@pytest.fixture
def server():
    png = io.BytesIO()
    two_halves().save(png, "PNG")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
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
        assert np.array_equal(np.asarray(load_image(server + path)), np.asarray(two_halves()))


def test_an_address_that_gives_no_picture_is_told_in_one_line(server, monkeypatch):
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
            load_image(address)
        assert address in str(error.value)
        assert "\n" not in str(error.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(images, "DOWNLOAD_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.png"
        with pytest.raises(UnreadableImageError, match=r"0\.2 s"):
            load_image(address)


def test_private_addresses_are_refused_where_they_are_not_allowed(server):
    with pytest.raises(UnreadableImageError, match="no public address"):
        load_image(f"{server}/picture.png", allow_private=False)


def test_folders_are_replaced_by_their_pictures(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "c.tif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "d.png").write_bytes(b"x")
    url = "https://example.org/e.jpg"
    found = find_images([url, str(tmp_path), "nowhere.jpg"])
    assert found == [url, *(str(tmp_path / n) for n in ("a.png", "b.JPG", "c.tif")), "nowhere.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        find_images([str(tmp_path / "empty")])
