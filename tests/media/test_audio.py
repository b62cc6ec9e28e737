"""Recordings of any kind: what is read is what was recorded, and what cannot be read says why."""

import io
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from av.stream import Disposition
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.audio import (
    MAX_SECONDS,
    UnreadableAudioError,
    is_silent,
    load_audio,
    stream_audio,
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
def test_every_file_format_is_read_with_its_channels_averaged(media, name):
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


def seconds_of(source: Any) -> float:
    """Length as loaded; as streamed it is the same."""
    samples, rate = load_audio(source)
    streamed = sum(block.shape[1] for block in stream_audio(source, sampling_rate=rate))
    assert streamed == len(samples)
    return len(samples) / rate


def wav_with_size(size: int, *, extra: bytes = b"") -> bytes:
    """A WAV of half a second whose header gives its samples any size."""
    file = io.BytesIO()
    soundfile.write(file, 0.2 * recording()[0, :24_000], RATE, format="WAV")
    content = bytearray(file.getvalue())
    place = content.index(b"data") + 4
    content[place : place + 4] = size.to_bytes(4, "little")
    return bytes(content) + extra


@pytest.mark.parametrize(
    "size",
    [
        *(0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFDB, 0xFFFFFFDB),
        *(48_002, 48_008, 48_016, 48_036, 48_044),
    ],
)
def test_a_wav_that_does_not_say_how_long_it_is_is_read_to_its_end(size):
    assert seconds_of(wav_with_size(size)) == 0.5


def test_a_wav_that_lacks_what_its_header_counts_is_refused():
    for size in (49_000, 480_000, 0x40000000):
        with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
            load_audio(wav_with_size(size))
    assert seconds_of(wav_with_size(48_000, extra=b"LIST\4\0\0\0abcd")) == 0.5


def is_refused(content: bytes) -> bool:
    """Return True if a file is said to be damaged."""
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content)
    return True


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize("length", [0, 6000, 9000, 100_000])
def test_a_wav_whose_samples_begin_late_is_refused_if_it_was_cut_off(endian, length):
    file = io.BytesIO()
    noise = 0.2 * recording()[0, :24_000]
    soundfile.write(file, noise, RATE, format="WAV", subtype="PCM_16", endian=endian)
    content = file.getvalue()
    place = content.index(b"data")
    order: Any = endian.lower()
    junk = b"JUNK" + length.to_bytes(4, order) + bytes(length)
    content = content[:place] + junk + content[place:]
    assert seconds_of(content) == 0.5
    for missing in (400, 5000, 24_000):
        assert is_refused(content[:-missing])


@pytest.mark.parametrize("rate", [2 * RATE - 100, RATE, 4 * RATE, 0])
def test_a_part_is_found_in_a_wav_whose_bytes_per_second_are_wrong(rate):
    file = io.BytesIO()
    soundfile.write(file, 0.2 * recording()[0], RATE, format="WAV", subtype="PCM_16")
    content = bytearray(file.getvalue())
    content[28:32] = rate.to_bytes(4, "little")
    assert_parts_are_exact(bytes(content))


@pytest.mark.parametrize("subtype", ["MS_ADPCM", "IMA_ADPCM", "GSM610"])
def test_a_part_is_found_in_a_compressed_wav(subtype):
    file = io.BytesIO()
    soundfile.write(file, 0.2 * recording()[0], RATE, format="WAV", subtype=subtype)
    assert_parts_are_exact(file.getvalue())


@pytest.mark.parametrize("codec", ["adpcm_ima_wav", "adpcm_yamaha", "adpcm_ms"])
def test_a_part_is_found_in_a_compressed_wav_of_ffmpeg(codec):
    assert_parts_are_exact(encoded(codec, "wav", 22_050, 2.3))


def assert_parts_are_exact(content: bytes) -> None:
    """Compare parts to the end with the end of the whole."""
    whole, rate = load_audio(content)
    for start in (0.2 * len(whole) / rate, 0.6 * len(whole) / rate, 0.95 * len(whole) / rate):
        part, _ = load_audio(content, start=start)
        np.testing.assert_array_equal(part, whole[round(start * rate) :])


@pytest.mark.parametrize(("valid", "bits"), [(24, 32), (20, 32), (16, 32), (12, 32), (16, 24)])
def test_a_wav_is_read_whose_samples_have_room_for_more_bits(valid, bits):
    width = bits // 8
    samples = np.round(recording()[:, :RATE].T * 2 ** (valid - 1)).astype(np.int32)
    data = np.ascontiguousarray(samples << (32 - valid))
    packed = data.view(np.uint8).reshape(*data.shape, 4)[..., 4 - width :].tobytes()
    fields = (0xFFFE, 2, RATE, RATE * 2 * width, 2 * width, bits, 22, valid, 3, 1)
    guid = bytes.fromhex("000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHIH", *fields) + guid
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(packed)) + packed
    content = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    expected = samples.mean(axis=1) / 2 ** (valid - 1)
    assert load_audio(content)[0] == pytest.approx(expected, abs=1e-6)
    part, _ = load_audio(content, start=0.7, seconds=0.1)
    assert part == pytest.approx(expected[33_600:38_400], abs=1e-6)
    assert is_refused(content[: len(content) // 2])


def write_track(
    path: Path,
    seconds: float,
    *,
    video: float,
    fps: int = 8,
    late: float = 0,
    second: float = 0,
    **options: str,
) -> None:
    """Write tracks of their own lengths in s; of two audio tracks the second is the default."""
    with av.open(path, "w", container_options=options) as container:
        tracks: list[Any] = []
        codec = "libvpx" if path.suffix == ".webm" else "mpeg4"
        picture: Any = container.add_stream(codec, rate=fps)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        for length in (seconds, second):
            if length:
                track: Any = container.add_stream(CODECS[path.suffix], rate=RATE)
                track.layout = "mono"
                tracks.append((track, length))
        if second:
            for number, (track, _) in enumerate(tracks):
                track.disposition = Disposition.default if number else Disposition(0)
        for number in range(round(video * fps)):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number, np.uint8))
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for track, length in tracks:
            for start in range(0, round(length * RATE), 960):
                block = np.full((1, min(960, round(length * RATE) - start)), 0.1, np.float32)
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = RATE, start + round(late * RATE)
                container.mux(track.encode(frame))
            container.mux(track.encode())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("fps", [1, 8])
@pytest.mark.parametrize(("sound", "late"), [(1.0, 0.0), (1.0, 1.2), (4.0, 0.0)])
def test_a_video_is_read_whose_audio_ends_or_begins_elsewhere(tmp_path, suffix, fps, sound, late):
    path = tmp_path / f"video{suffix}"
    write_track(path, sound, video=3, fps=fps, late=late)
    assert seconds_of(path) == pytest.approx(sound, abs=0.03)
    with pytest.raises(UnreadableAudioError, match="Start earlier"):
        load_audio(path, start=sound + 0.5)


@pytest.mark.parametrize(
    "options", [{"movflags": "frag_keyframe+empty_moov"}, {"use_editlist": "0"}], ids=str
)
def test_a_pause_before_the_audio_is_not_missed_at_its_end(tmp_path, options):
    path = tmp_path / "video.mp4"
    write_track(path, 1.0, video=3, late=1.2, **options)
    assert seconds_of(path) == pytest.approx(1.0, abs=0.03)
    content = path.read_bytes()
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[: len(content) * 6 // 10])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_of_two_tracks_the_default_one_is_heard(tmp_path, suffix):
    path = tmp_path / f"two{suffix}"
    write_track(path, 1.0, video=2, second=1.6)
    assert seconds_of(path) == pytest.approx(1.6, abs=0.03)


def encoded(
    codec: str, container: str, rate: int, seconds: float, *, late: float = 0, **options: str
) -> bytes:
    """Noise in a compressed file, which may begin later than it."""
    file = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, round(rate * seconds)))
    with av.open(file, "w", format=container, container_options=options) as output:
        track: Any = output.add_stream(codec, rate=rate)
        track.layout = "mono"
        if codec.startswith("wma"):
            track.bit_rate = 64_000
        for start in range(0, noise.shape[1], 1000):
            block = noise[:, start : start + 1000].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, start + round(late * rate)
            output.mux(track.encode(frame))
        output.mux(track.encode())
    return file.getvalue()


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        *(("pcm_s16be", "caf"), ("adpcm_ima_qt", "caf"), ("pcm_s16le", "w64")),
        *(("pcm_s16le", "avi"), ("libmp3lame", "avi"), ("wmav2", "asf"), ("libopus", "webm")),
    ],
)
def test_a_file_that_lacks_whole_packets_is_refused(codec, container):
    content = encoded(codec, container, 48_000 if codec == "libopus" else 44_100, 6.0)
    assert seconds_of(content) == pytest.approx(6.0, abs=0.06)
    with av.open(io.BytesIO(content), "r") as opened:
        places = [packet.pos for packet in opened.demux() if packet.pos]
    for share in (0.3, 0.6, 0.955):
        assert is_refused(content[: places[round(share * len(places))]])


@pytest.mark.parametrize("rate", [32_000, 44_100, 48_000])
@pytest.mark.parametrize("codec", ["ac3", "eac3"])
def test_dolby_digital_that_ends_within_a_frame_is_refused(codec, rate):
    content = encoded(codec, codec, rate, 3.0)
    assert seconds_of(content) == pytest.approx(3.0, abs=0.1)
    with av.open(io.BytesIO(content), "r") as opened:
        places = [packet.pos for packet in opened.demux() if packet.pos]
    for share in (0.3, 0.6, 0.955):
        assert is_refused(content[: places[round(share * len(places))] + 100])


def test_a_voc_that_lacks_a_part_of_a_block_is_refused():
    data = bytes([156, 0]) + bytes(range(256)) * 80
    block = b"\1" + len(data).to_bytes(3, "little") + data
    content = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129) + block + b"\0"
    samples, rate = load_audio(content)
    assert (len(samples), rate) == (256 * 80, 10_000)
    for count in range(1, 10):
        assert is_refused(content[: 32 + 2048 * count])


def test_a_fragmented_mp4_that_lacks_whole_packets_is_refused():
    content = encoded("aac", "mp4", 48_000, 4.0, movflags="empty_moov", frag_duration="500000")
    assert seconds_of(content) == pytest.approx(4.0, abs=0.05)
    with av.open(io.BytesIO(content), "r") as opened:
        ends = [packet.pos + packet.size for packet in opened.demux() if packet.pos]
    assert is_refused(content[: ends[40]])
    assert seconds_of(content + bytes(30)) == pytest.approx(4.0, abs=0.05)


def test_an_ogg_of_flac_that_lacks_whole_pages_is_refused():
    content = bytearray(encoded("flac", "ogg", 48_000, 3.0))
    page = content.index(b"OggS", 4)
    place = content.index(b"fLaC") + 8 + 14
    content[place : place + 4] = (3 * 48_000).to_bytes(4, "big")
    content[22:26] = bytes(4)
    content[22:26] = ogg_checksum(bytes(content[:page])).to_bytes(4, "little")
    assert seconds_of(bytes(content)) == 3.0
    assert is_refused(bytes(content[: content.rindex(b"OggS")]))


def test_a_matroska_without_video_may_begin_late():
    assert seconds_of(encoded("libopus", "matroska", 48_000, 3.0, late=2.0)) == 3.0


def test_joined_mp3s_with_images_in_their_tags_are_read():
    sound = encoded("libmp3lame", "mp3", 44_100, 1.0, write_xing="0", id3v2_version="0")
    # Bytes of an image may look like frames, the last of which takes the place of three.
    image = b"\xff\xd8" + bytes(range(250)) * 4 + sound[:5000] + b"\xff\xfb"
    size = bytes([0, 0, len(image) >> 7, len(image) & 0x7F])
    tag = b"ID3\4\0\0" + size + image
    expected = seconds_of(sound + sound)
    for between in (tag, b"TAG" + bytes(125) + tag):
        assert seconds_of(sound + between + sound) == pytest.approx(expected, abs=0.08)
        assert seconds_of(tag + sound + between + sound) == pytest.approx(expected, abs=0.08)
    assert is_refused(sound + tag[:-500])


@pytest.mark.parametrize(("codec", "container"), [("libmp3lame", "mp3"), ("aac", "adts")])
def test_joined_files_of_two_formats_are_read_at_one_rate(codec, container):
    first, second = (encoded(codec, container, rate, 1.0) for rate in (16_000, 44_100))
    for joined in (first + second, second + first, first + first):
        assert seconds_of(joined) == pytest.approx(2.0, abs=0.2)


def test_a_chain_of_vorbis_of_two_rates_is_read_whole():
    parts = []
    for rate, channels in ((16_000, 1), (48_000, 2), (22_050, 1)):
        file = io.BytesIO()
        noise = 0.1 * np.random.default_rng(0).standard_normal((rate, channels))
        soundfile.write(file, noise, rate, format="OGG", subtype="VORBIS")
        parts.append(file.getvalue())
    content = b"".join(parts)
    whole, rate = load_audio(content)
    assert (len(whole), rate) == (pytest.approx(48_000, abs=2), 16_000)
    assert whole.reshape(3, -1).std(axis=1) == pytest.approx([0.1, 0.04, 0.1], rel=0.2)
    for start in (0.5, 1.0, 2.4):
        part, _ = load_audio(content, start=start, seconds=0.5)
        expected = whole[round(start * rate) :][:8000]
        # A resampler begins anew in the part.
        assert part[200:-200] == pytest.approx(expected[200:-200], abs=2e-3)
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[:-30])


def test_a_caf_that_does_not_say_how_long_it_is_is_read_to_its_end():
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE) + 0.1, RATE, format="CAF", subtype="PCM_16")
    content = file.getvalue()
    place = content.index(b"data") + 4
    endless = content[:place] + b"\xff" * 8 + content[place + 8 :]
    assert seconds_of(endless) == pytest.approx(1.0, abs=0.001)
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[: len(content) // 2])


@pytest.mark.parametrize("frames", [0x3F800000, 0x7FFFFFFF])
def test_an_aiff_that_does_not_say_how_long_it_is_is_read_to_its_end(frames):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE) + 0.1, RATE, format="AIFF", subtype="PCM_16")
    content = file.getvalue()
    place = content.index(b"COMM") + 10
    endless = content[:place] + frames.to_bytes(4, "big") + content[place + 4 :]
    assert seconds_of(endless) == pytest.approx(1.0, abs=0.001)


def test_audio_whose_tags_are_not_utf8_is_read():
    content = wav_with_size(48_000)
    place = content.index(b"data")
    tags = b"LIST" + (24).to_bytes(4, "little") + b"INFOIART" + (12).to_bytes(4, "little")
    assert seconds_of(content[:place] + tags + b"Caf\xe9 del mar" + content[place:]) == 0.5


def test_dolby_digital_is_read():
    assert seconds_of(encoded("ac3", "ac3", 48_000, 1.0)) == pytest.approx(1.0, abs=0.05)


def test_a_video_with_a_packet_of_more_than_there_is_of_memory_is_damaged():
    content = bytearray(encoded("aac", "mp4", 16_000, 1.0))
    content[content.index(b"stsz") + 8] = 0x2C
    with pytest.raises(UnreadableAudioError, match="damaged or truncated") as refusal:
        load_audio(bytes(content))
    assert isinstance(refusal.value.__cause__, MemoryError)


def test_an_mp3_without_a_header_is_read_whole():
    # Silence and noise differ in bit rate, from which libsndfile would estimate the length.
    content = encoded("libmp3lame", "mp3", 16_000, 2.0, write_xing="0", id3v2_version="0")
    assert seconds_of(content) == pytest.approx(2.0, abs=0.2)
    assert seconds_of(content + bytes(600)) == pytest.approx(2.0, abs=0.2)
    assert seconds_of(content + b"TAG" + bytes(125)) == pytest.approx(2.0, abs=0.2)
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[: len(content) * 6 // 10])
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[:2000] + bytes(2000) + content[4000:])


@pytest.mark.parametrize(
    ("frames", "size", "is_whole"),
    [(1, 1, True), (3, 1, True), (1, 3, True), (0.3, 1, True), (1, 0.3, True), (3, 3, False)],
)
def test_one_count_of_an_mp3_may_be_wrong(frames, size, is_whole):
    content = bytearray(encoded("libmp3lame", "mp3", 16_000, 2.0))
    place = max(content.find(b"Xing"), content.find(b"Info")) + 8
    for offset, factor in ((place, frames), (place + 4, size)):
        count = int.from_bytes(content[offset : offset + 4], "big")
        content[offset : offset + 4] = round(count * factor).to_bytes(4, "big")
    if is_whole:
        assert seconds_of(bytes(content)) == pytest.approx(2.0, abs=0.05)
    else:
        with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
            load_audio(bytes(content))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_whose_last_page_is_not_flagged_is_read(subtype):
    file = io.BytesIO()
    soundfile.write(file, 0.2 * recording()[0], RATE, format="OGG", subtype=subtype)
    content = bytearray(file.getvalue())
    last = content.rindex(b"OggS")
    content[last + 5] &= ~4
    content[last + 22 : last + 26] = bytes(4)
    content[last + 22 : last + 26] = ogg_checksum(bytes(content[last:])).to_bytes(4, "little")
    assert seconds_of(bytes(content)) == pytest.approx(SECONDS, abs=0.01)
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(bytes(content[:-20]))


def ogg_checksum(page: bytes) -> int:
    """Checksum of an Ogg page: CRC-32 of the polynomial 0x04C11DB7, most significant bit first."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)
            value &= 0xFFFFFFFF
    return value


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_channels_that_cancel_are_heard(tmp_path, suffix):
    noise = recording()[0, :RATE]
    stereo = np.stack([noise, -0.95 * noise], axis=1)
    soundfile.write(tmp_path / f"r{suffix}", stereo, RATE)
    loaded, _ = load_audio(tmp_path / f"r{suffix}")
    assert loaded[:RATE].std() == pytest.approx(noise.std(), rel=0.1)
    part, _ = load_audio(tmp_path / f"r{suffix}", start=0.2, seconds=0.5)
    assert part.std() == pytest.approx(noise[9600:33_600].std(), rel=0.1)
    assert load_audio((stereo, RATE))[0] == pytest.approx(noise, abs=1e-6)


def test_channels_that_cancel_in_a_part_are_heard_there(tmp_path):
    noise = recording()[0]
    sign = np.where(np.arange(len(noise)) < 3 * RATE, 1, -1)
    stereo = np.stack([noise, sign * noise], axis=1)
    soundfile.write(tmp_path / "r.wav", stereo, RATE, subtype="FLOAT")
    assert load_audio(tmp_path / "r.wav")[0] == pytest.approx(noise, abs=1e-6)
    assert load_audio((stereo, RATE))[0] == pytest.approx(noise, abs=1e-6)


@pytest.mark.parametrize("channels", [3, 6, 8, 12])
def test_many_channels_are_averaged(tmp_path, channels):
    noise = 0.1 * np.random.default_rng(0).standard_normal((4800, channels)).astype(np.float32)
    soundfile.write(tmp_path / "many.wav", noise, RATE, subtype="FLOAT")
    loaded, _ = load_audio(tmp_path / "many.wav")
    assert loaded == pytest.approx(noise.mean(axis=1), abs=1e-6)


@pytest.mark.parametrize("rate", [1, 99, 2_130_714_432])
def test_rates_at_which_nothing_is_heard_are_refused(rate):
    content = bytearray(wav_with_size(48_000))
    content[24:28] = rate.to_bytes(4, "little")
    with pytest.raises(UnreadableAudioError, match=f"sampling rate of {rate:,} Hz"):
        load_audio(bytes(content))
    with pytest.raises(UnreadableAudioError, match=f"sampling rate of {rate:,} Hz"):
        load_audio((np.zeros(9), rate))


def test_a_wav_of_no_bits_is_refused():
    content = bytearray(wav_with_size(48_000))
    content[34:36] = bytes(2)
    with pytest.raises(UnreadableAudioError, match="cannot be decoded"):
        load_audio(bytes(content))


@pytest.mark.parametrize("format", ["AIFF", "AU", "FLAC"])
def test_a_file_that_lacks_its_last_moment_is_refused(format):
    file = io.BytesIO()
    soundfile.write(file, recording()[0, :9600], RATE, format=format)
    content = file.getvalue()
    assert seconds_of(content) == 0.2
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[: len(content) * 9 // 10])


class Decoder:
    """As torchcodec's AudioDecoder."""

    def __init__(self, error: Exception | None = None):
        self.error = error

    def get_all_samples(self) -> Any:
        if self.error:
            raise self.error
        return SimpleNamespace(data=torch.full((2, 800), 0.25), sample_rate=8000)


SAMPLES = np.linspace(-0.5, 0.5, 800, dtype=np.float32)


@pytest.mark.parametrize(
    "source",
    [
        (SAMPLES, 8000),
        [SAMPLES, 8000],
        (8000, SAMPLES),
        (SAMPLES, 8000.0),
        (np.float64(8000), SAMPLES),
        (SAMPLES, np.int16(8000)),
        (SAMPLES, torch.tensor(8000)),
        (SAMPLES.astype(np.float64), 8000),
        (torch.from_numpy(SAMPLES), 8000),
        (torch.from_numpy(SAMPLES)[None], 8000),
        (torch.from_numpy(SAMPLES).expand(2, -1), 8000),
        (SAMPLES.repeat(2).reshape(-1, 2), 8000),
        (torch.from_numpy(SAMPLES).bfloat16(), 8000),
        (torch.from_numpy(SAMPLES).requires_grad_(), 8000),
        (torch.from_numpy(SAMPLES).to_sparse(), 8000),
        (SAMPLES.tolist(), 8000),
        {"array": SAMPLES, "sampling_rate": 8000, "path": None},
        {"array": SAMPLES.tolist(), "sampling_rate": 8000.0},
    ],
)
def test_waveforms_are_taken_as_the_field_passes_them(source):
    samples, rate = load_audio(source)
    assert (type(rate), rate, samples.dtype, samples.shape) == (int, 8000, np.float32, (800,))
    assert samples == pytest.approx(SAMPLES, abs=2e-3)
    assert load_audio(source, start=0.025, seconds=0.05)[0] == pytest.approx(samples[200:600])
    streamed = np.concatenate(list(stream_audio(source, sampling_rate=8000)), axis=1)
    assert streamed == pytest.approx(np.stack([samples, samples]), abs=1e-6)


def test_a_decoders_channels_are_averaged():
    samples, rate = load_audio(Decoder())
    assert (rate, samples.tolist()) == (8000, [0.25] * 800)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "file", "BytesIO", "dict", "dict path"])
def test_files_are_taken_as_the_field_passes_them(media, kind):
    path = media / "r.flac"
    with path.open("rb") as file:
        source: Any = {
            "path": path,
            "str": str(path),
            "bytes": path.read_bytes(),
            "file": file,
            "BytesIO": io.BytesIO(path.read_bytes()),
            "dict": {"bytes": path.read_bytes(), "path": None},
            "dict path": {"array": None, "bytes": None, "path": str(path)},
        }[kind]
        assert len(load_audio(source)[0]) == SECONDS * RATE
        assert len(load_audio(source, start=1)[0]) == (SECONDS - 1) * RATE


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SAMPLES, r"Expected the audio as \(waveform, sampling_rate\), a path.*, got ndarray"),
        (7, "got int"),
        (None, "got NoneType"),
        ((SAMPLES,), r"Expected \(waveform, sampling_rate\) for the audio, got tuple"),
        ((8000, 8000), r"got tuple of \(int, int\)"),
        ((SAMPLES, SAMPLES), "sampling rate of the audio as an integer in Hz"),
        ((SAMPLES, 8000.5), "as an integer in Hz, got 8000.5"),
        ((SAMPLES, "8000"), "as an integer in Hz, got '8000'"),
        ((SAMPLES, True), "as an integer in Hz, got True"),
        ((SAMPLES, None), "as an integer in Hz, got None"),
        ((SAMPLES, float("nan")), "as an integer in Hz, got nan"),
        ((SAMPLES, -8000), "as an integer in Hz, got -8000"),
        ({"array": SAMPLES}, "as an integer in Hz, got None"),
        ({"sound": SAMPLES}, "with bytes or path, got the keys sound"),
        (((SAMPLES * 32_767).astype(np.int16), 8000), "Divide integer samples"),
        ((SAMPLES * 32_767, 8000), r"floats in \[-1, 1\], got up to"),
        ((SAMPLES.reshape(4, 200), 8000), r"of one or two channels, got \(4, 200\)"),
        ((SAMPLES.reshape(1, 1, 800), 8000), "of one or two channels"),
        ((SAMPLES[:0], 8000), r"got \(0,\)"),
        ((SAMPLES * np.nan, 8000), "not finite"),
        (["a.wav", "b.wav"], r"got list of \(str, str\)"),
        (io.StringIO(), "opened as text"),
        (Decoder(error=RuntimeError("no frames")), r"the audio can't be decoded \(no frames\)"),
        ((torch.empty(9, device="meta"), 8000), "NumPy can hold, got torch.float32 on meta"),
        (io.BytesIO(), "is empty"),
    ],
)
def test_what_is_no_audio_says_what_to_give(source, words):
    with pytest.raises(UserError, match=words):
        load_audio(source)


@pytest.mark.parametrize(
    "part",
    [
        *({"start": start} for start in (-1, float("nan"), "1", 10**400)),
        *({"longest_s": longest} for longest in (-1, "1", float("nan"), 10**400)),
    ],
    ids=lambda part: f"{part!s:.30}",
)
def test_a_part_before_the_beginning_is_refused(media, part):
    for source in (media / "r.wav", (SAMPLES, 8000)):
        with pytest.raises(UserError, match=r"start to be 0 s or later|longest_s to be above 0"):
            load_audio(source, **part)
        with pytest.raises(UserError, match="seconds to be above 0"):
            load_audio(source, seconds=-1)


def test_a_file_that_gives_no_bytes_is_refused(media):
    refused = pytest.raises(UserError, match="opened with mode 'rb', got a SoundFile")
    with soundfile.SoundFile(media / "r.wav") as file, refused:
        load_audio(file)


def test_a_part_has_at_least_one_sample(media):
    for source in (media / "r.wav", (SAMPLES, 8000)):
        assert load_audio(source, seconds=1e-9)[0].shape == (1,)


@pytest.mark.parametrize("name", ["v.mp4", "r.m4a", "r.mp3", "r.flac"])
def test_the_content_counts_and_not_the_name(media, tmp_path, name):
    (tmp_path / "wrong.wav").write_bytes((media / name).read_bytes())
    got, _ = load_audio(tmp_path / "wrong.wav")
    np.testing.assert_array_equal(got, load_audio(media / name)[0])


def test_what_is_no_audio_says_what_it_is(tmp_path):
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


def test_a_constant_is_silence_and_the_faintest_tone_is_not():
    assert is_silent(np.full(100, 0.3, np.float32))
    assert is_silent(np.tile([0, 1 / 32768], 50).astype(np.float32))
    assert not is_silent(np.tile([0.3, 0.3004], 50).astype(np.float32))


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path):
    (tmp_path / "a.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(UnreadableAudioError, match=r"a\.wav is a Git LFS pointer, not the file"):
        load_audio(str(tmp_path / "a.wav"))
