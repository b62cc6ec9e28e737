"""Recordings: from a file of any kind, or a video's sound track, to a mono waveform."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from clip2clap.core.errors import UserError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".m4a", ".aac", ".opus"})
"""What is taken for a recording in a folder."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
"""What is taken for a video with a sound track in a folder."""

MAX_SECONDS = 1800
"""Length in s above which a recording is not read at once: hours of sound would take gigabytes."""

SILENCE = 2.0**-14
"""The largest distance from its mean that a silent recording reaches, two steps of 16 bits."""

_BLOCK = 2**18
_STREAM_BLOCK = 2**14
# Naming the formats keeps FFmpeg's rarer readers, some of which follow addresses in a file, away
# from files of unknown origin.
_CONTAINERS = "mov,matroska,aac,mp3,ogg,wav,flac,aiff,w64,caf,asf,avi,mpegts,mpeg,flv,amr"
# Only these say how long they are; elsewhere FFmpeg guesses it from the bit rate.
_MEASURED_CONTAINERS = ("mov", "matroska")
# Decoders of lossy formats need what comes before to get a sample right.
_LEAD_IN_SECONDS = 0.5
# A file that gives less than this share of what it announces was cut off.
_WHOLE_SHARE = 0.95
_UNKNOWN_RIFF_SIZES = (0, 0xFFFFFFFF)
_OGG_END_FLAG = 4


class UnreadableAudioError(UserError):
    """A recording that can't be read; the message names it and says what to do."""


class SilentAudioError(UnreadableAudioError):
    """A recording in which there is nothing to hear."""


def load_audio(
    source: str | Path | bytes, *, start: float = 0.0, seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Read a recording, or a part of it, as mono; no more is read than is wanted.

    Args:
        source: A path or a file's bytes: WAV, FLAC, OGG, MP3, AIFF and what else libsndfile reads;
            M4A, and the first sound track of an MP4, MKV or WebM, by FFmpeg.
        start: Where to begin, in s.
        seconds: How much to read, in s; to the end if None. A recording that ends before gives
            what there is.

    Returns:
        The waveform, float32 of shape (samples,), full scale at -1 and 1, channels averaged; and
        its sampling rate in Hz.

    Raises:
        UnreadableAudioError: If it is missing, is not a recording, is damaged or cut off, holds no
            samples or some that are no numbers, ends before `start`, or is longer than
            `MAX_SECONDS`.
    """
    _check_part(start, seconds)
    name = "the recording" if isinstance(source, bytes) else str(source)
    with _opened(source, name) as file:
        if _is_cut_off(file):
            raise UnreadableAudioError(_damaged(name))
        file.seek(0)
        try:
            samples, sampling_rate = _by_soundfile(file, name, start, seconds)
        # Of bare samples, which is what it takes a name in .raw for, soundfile asks for the rate.
        except (soundfile.LibsndfileError, TypeError):
            file.seek(0)
            samples, sampling_rate = _by_ffmpeg(file, name, start, seconds)
    if not len(samples):
        raise UnreadableAudioError(f"{name} holds no samples. Fetch or save it again.")
    if not np.isfinite(samples).all():
        raise UnreadableAudioError(
            f"{name} holds samples that are no numbers (NaN or infinity). Save it again."
        )
    return samples, sampling_rate


def stream_audio(
    source: str | Path | bytes,
    *,
    sampling_rate: int,
    start: float = 0.0,
    seconds: float | None = None,
) -> Iterator[np.ndarray]:
    """Read a recording of any length in stereo, block by block.

    Args:
        source: What `load_audio` takes.
        sampling_rate: What to resample to, in Hz.
        start: Where to begin, in s.
        seconds: How much to read, in s; to the end if None.

    Yields:
        Blocks of float32, shape (2, samples), full scale at -1 and 1; a mono recording's two
        channels are the same.

    Raises:
        UnreadableAudioError: As `load_audio`, but for the length; what is wrong in the middle is
            found on the way.
    """
    _check_part(start, seconds)
    name = "the recording" if isinstance(source, bytes) else str(source)
    with _opened(source, name) as file:
        if _is_cut_off(file):
            raise UnreadableAudioError(_damaged(name))
        file.seek(0)
        most = None if seconds is None else round(seconds * sampling_rate)
        position, skipped = 0, round(start * sampling_rate)
        for block in _stereo_blocks(file, name, sampling_rate):
            if not np.isfinite(block).all():
                raise UnreadableAudioError(
                    f"{name} holds samples that are no numbers (NaN or infinity). Save it again."
                )
            kept = block[:, max(0, skipped - position) :]
            position += block.shape[1]
            if most is not None:
                kept = kept[:, : skipped + most - (position - kept.shape[1])]
            if kept.shape[1]:
                yield kept
            if most is not None and position >= skipped + most:
                break
        if not position:
            raise UnreadableAudioError(f"{name} holds no samples. Fetch or save it again.")
        if position <= skipped:
            raise UnreadableAudioError(_too_short(name, position / sampling_rate, start))


def is_silent(waveform: np.ndarray) -> bool:
    """Tell whether there is nothing to hear in a waveform, shape (samples,).

    That is so if no sample is further from their mean than `SILENCE`.
    """
    return float(np.abs(waveform - waveform.mean()).max()) < SILENCE


def require_audible(waveform: np.ndarray, name: str) -> None:
    """Refuse a recording in which there is nothing to hear.

    Args:
        waveform: Samples, shape (samples,), at least one.
        name: What to call it.

    Raises:
        SilentAudioError: If it is silent.
    """
    if is_silent(waveform):
        raise SilentAudioError(f"{name} is silent: there is nothing to hear in it.")


def find_audio(inputs: Sequence[str]) -> list[str]:
    """Replace every folder by the recordings and videos in it.

    Args:
        inputs: Files and folders.

    Returns:
        Files in the order given, those of a folder sorted by name; folders in it are not entered.
        A folder without any stays, for `load_audio` to say so.
    """
    found: list[str] = []
    for name in inputs:
        folder = Path(name).expanduser()
        if folder.is_dir():
            suffixes = SUFFIXES | VIDEO_SUFFIXES
            files = (path for path in folder.iterdir() if path.is_file())
            inside = sorted(path for path in files if path.suffix.lower() in suffixes)
            found += [str(path) for path in inside] or [name]
        else:
            found.append(name)
    return found


def _check_part(start: float, seconds: float | None) -> None:
    if not 0 <= start < float("inf"):
        raise UserError(f"Expected a recording to start at 0 s or later, got {start!r}.")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UserError(f"Expected to read from 0 to {MAX_SECONDS} s, got {seconds!r}.")


@contextlib.contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        if not source:
            raise UnreadableAudioError(f"{name} is empty. Fetch or save it again.")
        yield io.BytesIO(source)
        return
    path = Path(source).expanduser()
    if path.is_dir():
        raise UnreadableAudioError(
            f"The folder {name} holds no recording ({', '.join(sorted(SUFFIXES))}) and no video; "
            "folders in it are not entered."
        )
    if not path.is_file():
        raise UnreadableAudioError(f"No such file: {name}. Check the path.")
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise UnreadableAudioError(f"{name} is empty. Fetch or save it again.")
            yield file
    except OSError as error:
        raise UnreadableAudioError(f"{name} can't be read: {error.strerror or error}.") from error


def _by_soundfile(
    file: BinaryIO, name: str, start: float, seconds: float | None
) -> tuple[np.ndarray, int]:
    with soundfile.SoundFile(file) as sound:
        rate = sound.samplerate
        first = round(start * rate)
        if sound.frames and first >= sound.frames:
            raise UnreadableAudioError(_too_short(name, sound.frames / rate, start))
        wanted = sound.frames - first
        if seconds is not None:
            wanted = min(wanted, round(seconds * rate))
        if wanted > MAX_SECONDS * rate:
            raise UnreadableAudioError(_too_long(name, wanted / rate))
        if first:
            sound.seek(first)
        samples = np.empty(wanted, dtype=np.float32)
        got = 0
        while got < wanted:
            block = sound.read(min(_BLOCK, wanted - got), dtype="float32", always_2d=True)
            if not len(block):
                break
            samples[got : got + len(block)] = block.mean(axis=1)
            got += len(block)
    if got < wanted * _WHOLE_SHARE:
        raise UnreadableAudioError(_damaged(name))
    return samples[:got], rate


def _by_ffmpeg(
    file: BinaryIO, name: str, start: float, seconds: float | None
) -> tuple[np.ndarray, int]:
    with _ffmpeg(file, name) as container:
        return _decode(container, name, start, seconds)


def _stereo_blocks(file: BinaryIO, name: str, sampling_rate: int) -> Iterator[np.ndarray]:
    import av

    with _ffmpeg(file, name) as container:
        stream = container.streams.audio[0]
        # FFmpeg would turn a mono recording down on its way to stereo.
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = av.AudioResampler(
            format="fltp", layout=layout, rate=sampling_rate, frame_size=_STREAM_BLOCK
        )
        for frame in chain(container.decode(stream), [None]):
            if frame is not None:
                # When a video's sound begins means nothing here.
                frame.pts = None
            for part in resampler.resample(frame):
                yield np.broadcast_to(part.to_ndarray(), (2, part.samples))


@contextlib.contextmanager
def _ffmpeg(file: BinaryIO, name: str) -> Iterator[Any]:
    """Open a file that has a sound track; what FFmpeg finds wrong becomes one line."""
    import av

    try:
        with av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.audio:
                raise UnreadableAudioError(f"{name} is a video without a sound track.")
            yield container
    except (av.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        if _is_media(file):
            raise UnreadableAudioError(_damaged(name)) from error
        raise UnreadableAudioError(
            f"{name} is not a recording, or not a sound file that can be read. Give a WAV, FLAC, "
            "OGG, MP3 or M4A, or a video with sound."
        ) from error


def _decode(
    container: Any, name: str, start: float, seconds: float | None
) -> tuple[np.ndarray, int]:
    import av

    stream = container.streams.audio[0]
    rate = stream.rate
    measured = container.format.name.split(",")[0] in _MEASURED_CONTAINERS
    length = container.duration / av.time_base if container.duration and measured else None
    if length is not None:
        if start >= length:
            raise UnreadableAudioError(_too_short(name, length, start))
        if min(length - start, seconds or length) > MAX_SECONDS:
            raise UnreadableAudioError(_too_long(name, length - start))
    if start > _LEAD_IN_SECONDS:
        container.seek(int((start - _LEAD_IN_SECONDS) * av.time_base))
    origin = float((stream.start_time or 0) * stream.time_base)
    first = round(start * rate)
    most = round((seconds or MAX_SECONDS) * rate)
    planar = av.AudioResampler(format="fltp")
    blocks: list[np.ndarray] = []
    got, position = 0, None
    for frame in container.decode(stream):
        if position is None:
            position = round(((frame.time or 0.0) - origin) * rate)
        for part in planar.resample(frame):
            mono = part.to_ndarray().mean(axis=0)
            kept = mono[max(0, first - position) :]
            position += len(mono)
            if len(kept):
                blocks.append(kept[: most - got])
                got += len(blocks[-1])
        if got >= most:
            break
    if got >= most and seconds is None:
        raise UnreadableAudioError(_too_long(name, length))
    if not blocks and position:
        raise UnreadableAudioError(_too_short(name, position / rate, start))
    if length is not None and got < _WHOLE_SHARE * rate * min(length - start, seconds or length):
        raise UnreadableAudioError(_damaged(name))
    return np.concatenate([np.empty(0, np.float32), *blocks]).astype(np.float32), rate


def _is_media(file: BinaryIO) -> bool:
    """Tell from its first bytes whether a file that can't be decoded is a sound or a video."""
    file.seek(0)
    head = file.read(12)
    return head[4:8] == b"ftyp" or head.startswith(
        (b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"\x1aE\xdf\xa3")
    )


def _is_cut_off(file: BinaryIO) -> bool:
    """Tell whether a file ends before it says; the readers play such files without a word."""
    head = file.read(2**13)
    size = file.seek(0, io.SEEK_END)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _riff_end(head) > size
    if head[:4] == b"OggS":
        file.seek(max(0, size - 2**17))
        tail = file.read()
        last = tail.rfind(b"OggS")
        return last < 0 or not tail[last + 5 : last + 6] or not tail[last + 5] & _OGG_END_FLAG
    return _mp3_end(head) > size


def _riff_end(head: bytes) -> int:
    """Give where a WAV's samples end by its header; 0 if it doesn't say."""
    place = 12
    while place + 8 <= len(head):
        length = int.from_bytes(head[place + 4 : place + 8], "little")
        if head[place : place + 4] == b"data":
            return 0 if length in _UNKNOWN_RIFF_SIZES else place + 8 + length
        place += 8 + length + length % 2
    return 0


def _mp3_end(head: bytes) -> int:
    """Give where an MP3 ends by the Xing header in its first frame; 0 if it doesn't say."""
    if head[:3] != b"ID3" and (len(head) < 2 or head[0] != 0xFF or head[1] < 0xE0):
        return 0
    for mark in (b"Xing", b"Info"):
        place = head.find(mark)
        if place >= 0 and head[place + 7 : place + 8] and head[place + 7] & 2:
            field = place + 8 + (4 if head[place + 7] & 1 else 0)
            return int.from_bytes(head[field : field + 4], "big")
    return 0


def _damaged(name: str) -> str:
    return f"{name} is damaged or not fully there. Fetch or save it again."


def _too_short(name: str, length: float, start: float) -> str:
    return f"{name} lasts {length:.1f} s, and is to be heard from {start:g} s on. Start earlier."


def _too_long(name: str, length: float | None) -> str:
    lasts = "more" if length is None else f"{length / 3600:.1f} h"
    return (
        f"{name} lasts {lasts}; no more than {MAX_SECONDS // 60} minutes are heard at once. Name "
        "a part by its start and its length in seconds."
    )
