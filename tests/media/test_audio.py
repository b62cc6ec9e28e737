"""Recordings of any kind: what is read is what was recorded, and what cannot be read says why."""

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.audio import (
    MAX_SECONDS,
    UnreadableAudioError,
    find_audio,
    is_silent,
    load_audio,
)

RATE = 48_000
SECONDS = 4
FILES = ("r.wav", "r.flac", "r.ogg", "r.mp3", "r.m4a", "v.mp4", "v.mkv", "v.webm")
CODECS = {".m4a": "aac", ".mp4": "aac", ".mkv": "aac", ".webm": "libopus"}


def recording() -> np.ndarray:
    """Two channels, shape (2, samples), of which every stretch differs from every other."""
    noise = np.random.default_rng(0).standard_normal((2, RATE * SECONDS)).cumsum(axis=1)
    window = np.ones(400) / 400
    rows = np.stack([row - np.convolve(row, window, "same") for row in noise])
    return (0.4 * rows / np.abs(rows).max()).astype(np.float32)


def write_media(path: Path, waveform: np.ndarray | None) -> None:
    """Write a file as FFmpeg does, with a picture track if it is a video."""
    with av.open(path, "w") as container:
        video: Any = None
        sound: Any = None
        if path.suffix != ".m4a":
            codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
            video = container.add_stream(codec, rate=Fraction(8))
            video.width = video.height = 32
            video.pix_fmt = "yuv420p"
        if waveform is not None:
            sound = container.add_stream(CODECS[path.suffix], rate=RATE)
            sound.layout = "stereo"
        if video is not None:
            for shade in range(8 * SECONDS):
                picture = np.full((32, 32, 3), shade, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture)))
            container.mux(video.encode())
        if sound is not None and waveform is not None:
            for start in range(0, waveform.shape[1], 960):
                block = np.ascontiguousarray(waveform[:, start : start + 960])
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
                frame.sample_rate, frame.pts = RATE, start
                container.mux(sound.encode(frame))
            container.mux(sound.encode())


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    """The same recording in every kind of file."""
    folder = tmp_path_factory.mktemp("media")
    waveform = recording()
    for name in FILES:
        if Path(name).suffix in CODECS:
            write_media(folder / name, waveform)
        else:
            soundfile.write(folder / name, waveform.T, RATE)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_recording_with_its_channels_averaged(media, name):
    samples, rate = load_audio(media / name)
    expected = recording().mean(axis=0)
    assert (rate, samples.dtype) == (RATE, np.float32)
    assert abs(len(samples) - len(expected)) < 0.03 * RATE
    heard = samples[: len(expected)]
    assert np.corrcoef(heard, expected[: len(heard)])[0, 1] > 0.97
    assert heard.std() == pytest.approx(expected.std(), rel=0.05)
    from_bytes, _ = load_audio((media / name).read_bytes())
    np.testing.assert_array_equal(from_bytes, samples)


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_where_it_lies_in_the_whole(media, name):
    whole, rate = load_audio(media / name)
    part, _ = load_audio(media / name, start=1.7, seconds=0.9)
    assert len(part) == round(0.9 * rate)
    first = round(1.7 * rate)

    def likeness(shift: int) -> float:
        """How alike the part is to the whole, so many samples after where it should lie."""
        return float(np.corrcoef(part, whole[first + shift :][: len(part)])[0, 1])

    # Matroska counts time in ms.
    shifts = range(-60, 61, 6) if name in ("v.mkv", "v.webm") else (0,)
    assert max(map(likeness, shifts)) > 0.95
    assert likeness(round(0.3 * rate)) < 0.5
    last, _ = load_audio(media / name, start=SECONDS - 0.5)
    assert len(last) == pytest.approx(0.5 * rate, abs=0.03 * rate)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_says_so(media, tmp_path, name):
    whole = (media / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(UnreadableAudioError, match=f"{name} is damaged or truncated"):
        load_audio(tmp_path / name)


def test_a_wav_that_does_not_say_how_long_it_is_is_read(tmp_path):
    soundfile.write(tmp_path / "whole.wav", np.full(1000, 0.25), RATE)
    content = bytearray((tmp_path / "whole.wav").read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = b"\xff" * 4
    (tmp_path / "streamed.wav").write_bytes(content)
    samples, _ = load_audio(tmp_path / "streamed.wav")
    np.testing.assert_allclose(samples, 0.25, atol=1e-4)


@pytest.mark.parametrize("name", ["v.mp4", "r.m4a", "r.mp3", "r.flac"])
def test_the_content_counts_and_not_the_name(media, tmp_path, name):
    (tmp_path / "wrong.wav").write_bytes((media / name).read_bytes())
    got, _ = load_audio(tmp_path / "wrong.wav")
    np.testing.assert_array_equal(got, load_audio(media / name)[0])


def test_what_is_no_recording_says_what_it_is(tmp_path):
    write_media(tmp_path / "mute.mp4", None)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.wav", "PNG")
    # A playlist names further files, which are none of a stranger's business.
    (tmp_path / "list.mp3").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nr.wav\n")
    (tmp_path / "text.m4a").write_text("Dear diary, " * 40)
    (tmp_path / "noise.raw").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.ogg").touch()
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("mute.mp4", "is a video without an audio track"),
        ("picture.wav", "is not an audio file"),
        ("list.mp3", "is not an audio file"),
        ("text.m4a", "is not an audio file"),
        ("noise.raw", "is not an audio file"),
        ("empty.ogg", "is empty"),
        ("folder", "holds no audio"),
        ("absent.wav", "No such file"),
    ):
        with pytest.raises(UnreadableAudioError, match=words) as caught:
            load_audio(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    samples = np.full(1000, 0.5)
    samples[400] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(UnreadableAudioError, match="not finite"):
        load_audio(tmp_path / "nan.wav")
    assert len(load_audio(tmp_path / "nan.wav", seconds=0.04)[0]) == 320


def write_hours(path: Path, hours: int) -> None:
    """Write a WAV of 8 bits and 8 kHz, all of it a hole in the file but its head."""
    soundfile.write(path, np.zeros(8), 8000, subtype="PCM_U8")
    length = hours * 3600 * 8000
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = (place + 4 + length - 8).to_bytes(4, "little")
    content[place : place + 4] = length.to_bytes(4, "little")
    with path.open("wb") as file:
        file.write(content)
        file.truncate(place + 4 + length)


def test_of_eight_hours_only_the_part_asked_for_is_read(tmp_path):
    path = tmp_path / "night.wav"
    write_hours(path, 8)
    tracemalloc.start()
    try:
        with pytest.raises(UnreadableAudioError, match=r"lasts 8.0 h; at most 30 minutes"):
            load_audio(path)
        samples, rate = load_audio(path, start=7 * 3600, seconds=10)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(samples) == 10 * rate
    assert most < 20e6
    with pytest.raises(UserError, match=f"up to {MAX_SECONDS}, got 7200"):
        load_audio(path, seconds=7200)


def test_a_part_beyond_the_end_names_the_length(media):
    for name in ("r.wav", "r.m4a", "v.webm"):
        with pytest.raises(UnreadableAudioError, match=r"lasts 4\.0 s, less than start=60"):
            load_audio(media / name, start=60)


def test_folders_give_their_recordings_and_videos_sorted(tmp_path):
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.WAV", "a.mp4", "c.txt", "deeper/d.wav", "e.opus"):
        (folder / name).touch()
    (tmp_path / "nothing").mkdir()
    found = find_audio([str(folder), "x.wav", str(tmp_path / "nothing")])
    inside = [str(folder / name) for name in ("a.mp4", "b.WAV", "e.opus")]
    assert found == [*inside, "x.wav", str(tmp_path / "nothing")]


def test_a_constant_is_silence_and_the_faintest_tone_is_not():
    assert is_silent(np.full(100, 0.3, np.float32))
    assert is_silent(np.tile([0, 1 / 32768], 50).astype(np.float32))
    assert not is_silent(np.tile([0.3, 0.3004], 50).astype(np.float32))
