"""Lengths of sounds in every usual container, compared with FFmpeg's own command."""

import itertools
import subprocess
from pathlib import Path

import pytest

from clip2clap.media.audio import UnreadableAudioError, load_audio, stream_audio

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

# Names of files, and the options that write them.
KINDS = {
    "pcm.wav": ["-c:a", "pcm_s16le"],
    "pcm24.wav": ["-c:a", "pcm_s24le"],
    "float.wav": ["-c:a", "pcm_f32le"],
    "adpcm.wav": ["-c:a", "adpcm_ms"],
    "mp3.wav": ["-c:a", "libmp3lame"],
    "rf64.wav": ["-rf64", "always"],
    "x.w64": [],
    "x.aiff": [],
    "x.au": [],
    "x.caf": [],
    "x.flac": [],
    "flac.ogg": ["-c:a", "flac"],
    "x.opus": ["-c:a", "libopus"],
    "x.ogg": ["-c:a", "libvorbis"],
    "x.mp3": [],
    "vbr.mp3": ["-q:a", "4"],
    "headless.mp3": ["-q:a", "4", "-write_xing", "0"],
    "x.mp2": [],
    "x.aac": [],
    "x.m4a": [],
    "alac.m4a": ["-c:a", "alac"],
    "fast.mp4": ["-movflags", "+faststart"],
    "pcm.mov": ["-c:a", "pcm_s16le"],
    "aac.mkv": ["-c:a", "aac"],
    "flac.mkv": ["-c:a", "flac"],
    "x.webm": ["-c:a", "libopus"],
    "x.avi": ["-c:a", "libmp3lame"],
    "x.wma": [],
}
# Each kind is written at one rate, number of channels and length.
FORMATS = itertools.cycle(itertools.product((16_000, 44_100, 48_000), ("mono", "stereo"), (0.5, 1)))
CASES = [(name, *format) for name, format in zip(KINDS, FORMATS, strict=False)]


def ffmpeg(*arguments: str) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.mark.parametrize(("name", "rate", "layout", "seconds"), CASES)
def test_audio_is_as_long_as_ffmpeg_plays_it(tmp_path: Path, name, rate, layout, seconds):
    rate = 48_000 if name in ("x.opus", "x.webm") else rate
    source = f"anoisesrc=d={seconds}:r={rate}:a=0.3:seed=1,aformat=channel_layouts={layout}"
    path = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", source, *KINDS[name], str(path))
    played = ffmpeg("-i", str(path), "-f", "f32le", "-ac", "1", "-ar", str(rate), "-")
    samples, own_rate = load_audio(path)
    assert own_rate == rate
    # Of Ogg Vorbis FFmpeg may drop the first block, of 2,048 samples at most.
    tolerance = 2048 if name == "x.ogg" else 2
    assert abs(len(samples) - len(played) // 4) <= tolerance
    streamed = sum(block.shape[1] for block in stream_audio(path, sampling_rate=rate))
    assert streamed == len(samples)
    content = path.read_bytes()
    with pytest.raises(UnreadableAudioError, match="damaged or truncated"):
        load_audio(content[: len(content) * 6 // 10])
