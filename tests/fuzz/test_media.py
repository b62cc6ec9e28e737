"""Damaged and odd images and audio: read, or refused by an error that says why, in bounded time."""

import io
import itertools
from functools import partial
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clip2clap.media.audio import load_audio, stream_audio
from clip2clap.media.images import load_image

from .builders import damages, few, works_or_says_why

RATE = 16_000


def image_files() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    files = {}
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM"):
        file = io.BytesIO()
        has_exif = format not in ("GIF", "BMP", "JPEG2000", "PPM")
        options: dict[str, Any] = {"exif": exif} if has_exif else {}
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


@pytest.mark.parametrize("kind", IMAGES)
def test_damaged_images_are_read_or_say_why(kind):
    for content in damages(IMAGES[kind], 20):
        works_or_says_why(partial(load_image, content))


def stream(content: bytes) -> None:
    for _ in stream_audio(content, sampling_rate=RATE, seconds=1.0):
        pass


@pytest.mark.parametrize("kind", AUDIO)
def test_damaged_audio_is_read_or_says_why(kind):
    starts = itertools.cycle([0.0, 0.2, 3.0])
    for content, start in zip(damages(AUDIO[kind], 12), starts, strict=False):
        works_or_says_why(partial(load_audio, content, start=start))
        works_or_says_why(partial(stream, content))


@few(12)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_say_why(content):
    works_or_says_why(lambda: load_image(content))
    works_or_says_why(lambda: load_audio(content))


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


@few(12)
@given(THINGS | st.lists(THINGS, max_size=3) | st.tuples(THINGS, THINGS)
       | st.dictionaries(KEYS, THINGS))  # fmt: skip
def test_any_object_is_read_or_says_why(thing):
    works_or_says_why(lambda: load_image(thing))
    works_or_says_why(lambda: load_audio(thing))
