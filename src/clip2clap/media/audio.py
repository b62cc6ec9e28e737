"""Audio: reading of files, videos' audio tracks and arrays, whole or in blocks, and of tags."""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import soundfile

from clip2clap.core.errors import UserError, expect, is_number
from clip2clap.core.files import as_path
from clip2clap.media.arrays import Cancellation, open_file, to_file, to_waveform
from clip2clap.media.decoding import (
    MAX_SECONDS,
    UnreadableAudioError,
    decode_audio,
    read_metadata,
    too_short,
)

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".m4a", ".aac", ".opus"})
"""Suffixes of the audio files that are read from a folder."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
"""Suffixes of the videos that are read from a folder."""

SILENCE = 2.0**-14
"""Largest distance of a silent waveform's samples from their mean: two steps of 16 bits."""


class SilentAudioError(UnreadableAudioError):
    """Error of audio that is silent."""


def load_audio(
    source: Any,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    longest_s: float | None = None,
    name: str = "the audio",
) -> tuple[np.ndarray, int]:
    """Load audio, or a part of it, as a mono waveform.

    Files are decoded by FFmpeg: WAV, FLAC, OGG, Opus, MP3, AIFF, M4A and many others, and the
    default audio track of an MP4, MKV or WebM. What FFmpeg plays whole is read whole, and a
    truncated file is an error.

    Args:
        source: A path, a file's bytes, an opened file, a waveform with its sampling rate in Hz (in
            either order), an item of a `datasets` audio column, or a torchcodec `AudioDecoder`. A
            waveform is an array or tensor of floats in [-1, 1], shape (samples,), or of two
            channels.
        start: Start of the part, in s.
        seconds: Length of the part, in s; to the end if None. Audio that ends earlier gives less.
        longest_s: Length of a part to the end, in s, from which on it is refused, after no more was
            decoded: what a file says of its length may be wrong.
        name: Name of a source without a path, for messages.

    Returns:
        The waveform, shape (samples,), float32, full scale at -1 and 1; and its sampling rate in
        Hz. Channels are averaged; where that would cancel them, the loudest is returned.

    Raises:
        UnreadableAudioError: If the file is missing, is no audio, is damaged or truncated, holds
            no samples or non-finite ones, ends before `start`, or is longer than `longest_s` or
            `MAX_SECONDS`.
        UserError: If the source is of another type, or an array is no waveform.

    Examples:
        >>> waveform, sampling_rate = load_audio("bark.wav")
        >>> waveform.ndim
        1
    """
    _check_part(start, seconds)
    source, name = _file_or_waveform(source, name)
    if seconds is None and longest_s is not None:
        is_length = is_number(longest_s) and 0 < longest_s < MAX_SECONDS
        expect(is_length, "longest_s", f"above 0 and below {MAX_SECONDS}", longest_s)
        waveform, rate = load_audio(source, start=start, seconds=longest_s + 1, name=name)
        if len(waveform) > longest_s * rate:
            raise UnreadableAudioError(f"{name} is longer than {longest_s:g} s. Cut it first.")
        return waveform, rate
    if isinstance(source, tuple):
        waveform, rate = source
        first = round(start * rate)
        if first >= len(waveform):
            raise UnreadableAudioError(too_short(name, len(waveform) / rate, start))
        end = None if seconds is None else first + max(1, round(seconds * rate))
        return waveform[first:end], rate
    with _opened(source, name) as file:
        part = partial(decode_audio, file, name, start=start, seconds=seconds, most=MAX_SECONDS)
        waveform, rate, loudest = _mixed(part(), None)
        return (waveform, rate) if loudest is None else _mixed(part(), loudest)[:2]


def _mixed(
    blocks: Iterator[tuple[np.ndarray, int]], channel: int | None
) -> tuple[np.ndarray, int, int | None]:
    """Return the mean of the channels or one of them, the rate, and the loudest if they cancel."""
    parts, rate, cancellation = [], 0, Cancellation()
    for block, own_rate in blocks:
        mono = block.mean(axis=0) if channel is None else block[channel % len(block)]
        if channel is None:
            cancellation.add(block, mono)
        parts.append(mono)
        rate = own_rate
    return np.concatenate(parts), rate, cancellation.loudest


def stream_audio(
    source: Any,
    *,
    sampling_rate: int,
    start: float = 0.0,
    seconds: float | None = None,
) -> Iterator[np.ndarray]:
    """Stream audio of any length in stereo.

    Args:
        source: As for `load_audio`.
        sampling_rate: Sampling rate of the blocks, in Hz.
        start: Start of the part, in s.
        seconds: Length of the part, in s; to the end if None.

    Yields:
        Blocks of samples, shape (2, samples), float32, full scale at -1 and 1; the two channels of
        mono audio are equal.

    Raises:
        UnreadableAudioError: As for `load_audio`, except for the length; damage after the start
            is found while reading.

    Examples:
        >>> blocks = list(stream_audio("bark.wav", sampling_rate=16_000, seconds=0.25))
        >>> sum(block.shape[1] for block in blocks)
        4000
    """
    _check_part(start, seconds)
    source, name = _file_or_waveform(source, "the audio")
    if isinstance(source, tuple):
        # An array is streamed as the file that it would be.
        waveform, rate = source
        file = io.BytesIO()
        soundfile.write(file, waveform, rate, format="WAV", subtype="FLOAT")
        source = file
    with _opened(source, name) as file:
        for block, _ in decode_audio(
            file,
            name,
            start=start,
            seconds=seconds,
            sampling_rate=sampling_rate,
            layout="stereo",
        ):
            yield np.broadcast_to(block, (2, block.shape[1]))


def read_tags(source: Any, *, name: str = "the audio") -> dict[str, Any]:
    """Read the JSON document that `write_audio` was given as `tags`.

    Args:
        source: A path, a file's bytes or an opened file.
        name: Name of a source without a path, for messages.

    Raises:
        UnreadableAudioError: If the file is missing or is no audio.
        UserError: If it has no such tags.

    Examples:
        >>> from clip2clap import write_audio
        >>> _ = write_audio("tagged.wav", np.zeros(16_000), 16_000, tags={"prompt": "rain"})
        >>> read_tags("tagged.wav")
        {'prompt': 'rain'}
    """
    source, name = _file_or_waveform(source, name)
    with _opened(source, name) as file:
        comment = read_metadata(file, name).get("comment", "")
    with contextlib.suppress(ValueError):
        tags = json.loads(comment)
        if isinstance(tags, dict):
            return tags
    raise UserError(f"{name} has no tags of clip2clap: it was not written by it, or edited.")


def is_silent(waveform: np.ndarray) -> bool:
    """Return True if no sample of a waveform, shape (samples,), exceeds `SILENCE`."""
    return float(np.abs(waveform - waveform.mean()).max()) < SILENCE


def require_audible(waveform: np.ndarray, name: str) -> None:
    """Raise a `SilentAudioError` that names a waveform, shape (samples,), if it is silent."""
    if is_silent(waveform):
        raise SilentAudioError(f"{name} is silent. Give audio with content.")


def _check_part(start: Any, seconds: Any) -> None:
    is_time = is_number(start) and 0 <= start <= sys.float_info.max
    expect(is_time, "start", "0 s or later", start)
    fits = seconds is None or (is_number(seconds) and 0 < seconds <= MAX_SECONDS)
    expect(fits, "seconds", f"above 0 and up to {MAX_SECONDS}", seconds)


def _file_or_waveform(source: Any, name: str) -> tuple[Any, str]:
    """Return a file's path, bytes or object, or a mono waveform with its rate; and its name."""
    if (waveform := to_waveform(source, name)) is not None:
        return waveform, name
    file = to_file(source, name)
    if not isinstance(file, str | bytes) and not hasattr(file, "read"):
        raise UserError(
            f"Expected {name} as (waveform, sampling_rate), a path, a file's bytes or opened file, "
            "a dictionary with array and sampling_rate or with bytes or path, or a torchcodec "
            f"AudioDecoder, got {type(source).__name__}."
        )
    return file, file if isinstance(file, str) else name


@contextlib.contextmanager
def _opened(source: str | bytes | BinaryIO, name: str) -> Iterator[BinaryIO]:
    if not isinstance(source, str):
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        if not file.seek(0, io.SEEK_END):
            raise UnreadableAudioError(f"{name} is empty. Fetch or save it again.")
        yield file
        return
    if as_path(source).is_dir():
        raise UnreadableAudioError(
            f"The folder {name} holds no audio ({', '.join(sorted(SUFFIXES))}) and no video; its "
            "subfolders are not searched."
        )
    with open_file(source, UnreadableAudioError) as file, _opened(file, name):
        yield file
