"""Damaged and odd images and audio: read, or refused by an error that says why, in bounded time.

FUZZ_EXAMPLES sets the number of inputs of each kind.
"""

import io
import os
import time
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.audio import load_audio, stream_audio
from clip2clap.media.images import load_image

RATE = 16_000
# Far above what any file of these sizes may take, even on a busy machine.
MOST_SECONDS = 10.0
few = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "12")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def image_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    files = {}
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF"):
        file = io.BytesIO()
        options: dict[str, Any] = {} if format in ("GIF", "BMP") else {"exif": exif}
        Image.fromarray(noise).save(file, format, **options)
        files[format] = file.getvalue()
    file = io.BytesIO()
    Image.fromarray(noise[..., 0].astype(np.float32)).save(file, "TIFF")
    files["float TIFF"] = file.getvalue()
    return files


def audio_files() -> dict[str, bytes]:
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE // 2, 2))
    kinds = [("WAV", "PCM_16"), ("WAV", "MS_ADPCM"), ("RF64", "FLOAT"), ("FLAC", None)]
    kinds += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("AIFF", None), ("AU", None)]
    files = {}
    for format, subtype in [*kinds, ("CAF", None), ("W64", None)]:
        file = io.BytesIO()
        soundfile.write(file, noise, RATE, format=format, subtype=subtype)
        files[f"{format} {subtype or ''}"] = file.getvalue()
    for container, codec in (("mp4", "aac"), ("matroska", "aac"), ("adts", "aac"), ("avi", "mp2")):
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            track: Any = output.add_stream(codec, rate=RATE, layout="stereo")
            block = np.ascontiguousarray(noise.T[:, :1024], np.float32)
            for start in range(0, 8192, 1024):
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = RATE, start
                output.mux(track.encode(frame))
            output.mux(track.encode())
        files[container] = file.getvalue()
    return files


IMAGES, AUDIO = image_files(), audio_files()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with changed bytes, most of them in its header; cut, repeated or joined parts."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 6))):
        near = draw(st.booleans())
        place = draw(st.integers(0, min(len(content), 400 if near else len(content)) - 1))
        odd = st.sampled_from([b"\0", b"\xff", b"\x7f\xff\xff\xff", bytes(4), b"\xff" * 4, b"\x80"])
        value = draw(odd | st.binary(min_size=1, max_size=8))
        content[place : place + len(value)] = value
    start, end = sorted((draw(st.integers(0, len(content))), draw(st.integers(0, len(content)))))
    part = bytes(content[start:end])
    how = draw(st.sampled_from(["whole", "whole", "whole", "cut", "left out", "twice", "inserted"]))
    return {
        "whole": bytes(content),
        "cut": bytes(content[:end]),
        "left out": bytes(content[:start] + content[end:]),
        "twice": bytes(content) * 2,
        "inserted": bytes(content[:start]) + part + bytes(content[start:]),
    }[how]


def reads_or_says_why(read: Callable[[], object]) -> None:
    start, reason = time.monotonic(), "none"
    try:
        read()
    except UserError as error:
        reason = str(error)
    assert reason
    assert "\n" not in reason
    assert time.monotonic() - start < MOST_SECONDS


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images_are_read_or_say_why(kind):
    @few
    @given(damaged(IMAGES[kind]))
    def check(content: bytes) -> None:
        reads_or_says_why(lambda: load_image(content))

    check()


@pytest.mark.parametrize("kind", AUDIO)
def test_damaged_audio_is_read_or_says_why(kind):
    @few
    @given(damaged(AUDIO[kind]), st.sampled_from([0.0, 0.2, 3.0]))
    def check(content: bytes, start: float) -> None:
        reads_or_says_why(lambda: load_audio(content, start=start))
        reads_or_says_why(lambda: list(stream_audio(content, sampling_rate=RATE, seconds=1.0)))

    check()


@few
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_say_why(content):
    reads_or_says_why(lambda: load_image(content))
    reads_or_says_why(lambda: load_audio(content))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
THINGS = (
    LEAVES
    | st.binary(max_size=5)
    | st.builds(
        lambda dtype, shape: np.ones(shape, dtype),
        st.sampled_from(["?", "u1", "i2", "f2", "f4", "f8", "c8", "O", "U1", "M8[s]"]),
        st.lists(st.integers(0, 4), max_size=4),
    )
)
KEYS = st.sampled_from(["array", "sampling_rate", "bytes", "path"])


@few
@given(THINGS | st.lists(THINGS, max_size=3) | st.tuples(THINGS, THINGS)
       | st.dictionaries(KEYS, THINGS))  # fmt: skip
def test_any_object_is_read_or_says_why(thing):
    reads_or_says_why(lambda: load_image(thing))
    reads_or_says_why(lambda: load_audio(thing))
