"""Audio: reading of audio files and videos' audio tracks, whole or in blocks, and writing."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import soundfile

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.media.headers import is_media, is_truncated

AudioFormat = Literal["wav", "flac", "ogg"]
AUDIO_FORMATS: tuple[AudioFormat, ...] = get_args(AudioFormat)

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff", ".m4a", ".aac", ".opus"})
"""Suffixes of the audio files that are read from a folder."""

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm"})
"""Suffixes of the videos that are read from a folder."""

MAX_SECONDS = 1800
"""Maximum duration read into memory, in seconds; hours of audio would need gigabytes."""

SILENCE = 2.0**-14
"""Largest distance of a silent waveform's samples from their mean: two steps of 16 bits."""

_BLOCK = 2**18
_STREAM_BLOCK = 2**14
# libsndfile's Vorbis encoder keeps a whole write on the stack.
_WRITE_BLOCK = 2**16
# Vorbis overshoots: 1 dB of headroom keeps the decoded waveform below full scale.
_PEAKS = {"wav": 1.0, "flac": 1.0, "ogg": 10 ** (-1 / 20)}
# Naming the formats keeps FFmpeg's rarer readers, some of which follow addresses in a file, away
# from files of unknown origin.
_CONTAINERS = "mov,matroska,aac,mp3,ogg,wav,flac,aiff,w64,caf,asf,avi,mpegts,mpeg,flv,amr"
# Only these store their duration; elsewhere FFmpeg estimates it from the bit rate.
_MEASURED_CONTAINERS = ("mov", "matroska")
# Decoders of lossy formats need the preceding samples to decode a sample exactly.
_LEAD_IN_SECONDS = 0.5
# A file with less than this share of its declared duration is truncated.
_WHOLE_SHARE = 0.95


class UnreadableAudioError(UserError):
    """Error of audio that cannot be read; the message names it and the fix."""


class SilentAudioError(UnreadableAudioError):
    """Error of audio that is silent."""


def load_audio(
    source: str | Path | bytes, *, start: float = 0.0, seconds: float | None = None
) -> tuple[np.ndarray, int]:
    """Load audio, or a part of it, as a mono waveform.

    Args:
        source: A path or a file's bytes: WAV, FLAC, OGG, MP3, AIFF and whatever else libsndfile
            reads; M4A and the first audio track of an MP4, MKV or WebM through FFmpeg.
        start: Start of the part, in s.
        seconds: Length of the part, in s; to the end if None. Audio that ends earlier gives less.

    Returns:
        The waveform, shape (samples,), float32, full scale at -1 and 1, channels averaged; and its
        sampling rate in Hz.

    Raises:
        UnreadableAudioError: If the file is missing, is no audio, is damaged or truncated, holds
            no samples or non-finite ones, ends before `start`, or is longer than `MAX_SECONDS`.

    Examples:
        >>> waveform, sampling_rate = load_audio("bark.wav")
        >>> waveform.ndim
        1
    """
    _check_part(start, seconds)
    name = "the audio" if isinstance(source, bytes) else str(source)
    with _opened(source, name) as file:
        if is_truncated(file):
            raise UnreadableAudioError(_damaged(name))
        file.seek(0)
        try:
            samples, sampling_rate = _by_soundfile(file, name, start, seconds)
        # soundfile treats a name in .raw as headerless samples, and requires their sampling rate.
        except (soundfile.LibsndfileError, TypeError):
            file.seek(0)
            samples, sampling_rate = _by_ffmpeg(file, name, start, seconds)
    if not len(samples):
        raise UnreadableAudioError(_no_samples(name))
    if not np.isfinite(samples).all():
        raise UnreadableAudioError(_not_finite(name))
    return samples, sampling_rate


def stream_audio(
    source: str | Path | bytes,
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
    name = "the audio" if isinstance(source, bytes) else str(source)
    with _opened(source, name) as file:
        if is_truncated(file):
            raise UnreadableAudioError(_damaged(name))
        file.seek(0)
        most = None if seconds is None else round(seconds * sampling_rate)
        position, skipped = 0, round(start * sampling_rate)
        for block in _stereo_blocks(file, name, sampling_rate):
            if not np.isfinite(block).all():
                raise UnreadableAudioError(_not_finite(name))
            kept = block[:, max(0, skipped - position) :]
            position += block.shape[1]
            if most is not None:
                kept = kept[:, : skipped + most - (position - kept.shape[1])]
            if kept.shape[1]:
                yield kept
            if most is not None and position >= skipped + most:
                break
        if not position:
            raise UnreadableAudioError(_no_samples(name))
        if position <= skipped:
            raise UnreadableAudioError(_too_short(name, position / sampling_rate, start))


def write_audio(
    path: str | Path,
    waveform: np.ndarray,
    sampling_rate: int,
    *,
    format: AudioFormat | None = None,
) -> None:
    """Write a waveform atomically, as 16-bit WAV or FLAC, or as OGG Vorbis.

    A waveform beyond full scale is scaled down as a whole rather than clipped; any other keeps its
    level.

    Args:
        path: File to write, replaced if it exists; its folder must exist.
        waveform: Samples, shape (samples,), full scale at -1 and 1: an array, or anything NumPy
            converts to one, such as a tensor on the CPU.
        sampling_rate: In Hz.
        format: File format; by default that of the path's suffix.

    Raises:
        UserError: If the format is unknown, or the waveform is not of shape (samples,), is empty
            or holds non-finite samples.

    Examples:
        >>> write_audio("tone.wav", np.sin(np.linspace(0, 2000, 16000)), 16_000)
        >>> load_audio("tone.wav")[0].shape
        (16000,)
    """
    path = Path(path)
    chosen: str = format or path.suffix.lstrip(".").lower()
    if chosen not in AUDIO_FORMATS:
        raise UserError(
            f"Cannot write {path.name!r}: expected a name that ends in .wav, .flac or .ogg."
        )
    samples = np.asarray(waveform, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise UserError(
            f"Expected a waveform of shape (samples,), got {samples.shape}: write one per file."
        )
    if not np.isfinite(samples).all():
        raise UserError(
            f"The waveform for {path.name!r} has samples that are not finite. A generator in "
            "float16 does that: use float32 or bfloat16."
        )
    if sampling_rate < 1:
        raise UserError(f"Expected a sampling rate above 0 Hz, got {sampling_rate}.")
    peak = float(np.abs(samples).max())
    if peak > _PEAKS[chosen]:
        samples = samples * (_PEAKS[chosen] / peak)
    subtype = "VORBIS" if chosen == "ogg" else "PCM_16"
    if subtype == "PCM_16":
        samples = np.round(samples * 32767).astype(np.int16)
    options = {"samplerate": int(sampling_rate), "channels": 1, "subtype": subtype}
    with (
        replacing(path) as partial,
        soundfile.SoundFile(partial, "w", format=chosen.upper(), **options) as file,
    ):
        for start in range(0, len(samples), _WRITE_BLOCK):
            file.write(samples[start : start + _WRITE_BLOCK])


def is_silent(waveform: np.ndarray) -> bool:
    """Return True if no sample of a waveform, shape (samples,), exceeds `SILENCE`."""
    return float(np.abs(waveform - waveform.mean()).max()) < SILENCE


def require_audible(waveform: np.ndarray, name: str) -> None:
    """Raise an error for a silent waveform.

    Args:
        waveform: Samples, shape (samples,), at least one.
        name: Name for the message.

    Raises:
        SilentAudioError: If it is silent.
    """
    if is_silent(waveform):
        raise SilentAudioError(f"{name} is silent. Give audio with content.")


def find_audio(inputs: Sequence[str]) -> list[str]:
    """Replace each folder by the audio files and videos in it, without its subfolders.

    Args:
        inputs: Files and folders.

    Returns:
        Files in the order given, those of a folder sorted by name. A folder without any is kept,
        so that `load_audio` raises its error.
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
        raise UserError(f"Expected start of 0 s or later, got {start!r}.", param="start")
    if seconds is not None and not 0 < seconds <= MAX_SECONDS:
        raise UserError(
            f"Expected seconds above 0 and up to {MAX_SECONDS}, got {seconds!r}.", param="seconds"
        )


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
            f"The folder {name} holds no audio ({', '.join(sorted(SUFFIXES))}) and no video; its "
            "subfolders are not searched."
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
    with soundfile.SoundFile(file) as audio:
        rate = audio.samplerate
        first = round(start * rate)
        if audio.frames and first >= audio.frames:
            raise UnreadableAudioError(_too_short(name, audio.frames / rate, start))
        wanted = audio.frames - first
        if seconds is not None:
            wanted = min(wanted, round(seconds * rate))
        if wanted > MAX_SECONDS * rate:
            raise UnreadableAudioError(_too_long(name, wanted / rate))
        if first:
            audio.seek(first)
        samples = np.empty(wanted, dtype=np.float32)
        got = 0
        while got < wanted:
            block = audio.read(min(_BLOCK, wanted - got), dtype="float32", always_2d=True)
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
        # FFmpeg would attenuate mono audio when converting it to stereo.
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = av.AudioResampler(
            format="fltp", layout=layout, rate=sampling_rate, frame_size=_STREAM_BLOCK
        )
        for frame in chain(container.decode(stream), [None]):
            if frame is not None:
                # Where a video's audio starts does not matter here.
                frame.pts = None
            for part in resampler.resample(frame):
                yield np.broadcast_to(part.to_ndarray(), (2, part.samples))


@contextlib.contextmanager
def _ffmpeg(file: BinaryIO, name: str) -> Iterator[Any]:
    """Open a file with an audio track, and turn FFmpeg's errors into one line."""
    import av

    try:
        with av.open(file, options={"format_whitelist": _CONTAINERS}) as container:
            if not container.streams.audio:
                raise UnreadableAudioError(f"{name} is a video without an audio track.")
            yield container
    except (av.FFmpegError, ValueError, OSError) as error:
        if isinstance(error, UserError):
            raise
        if is_media(file):
            raise UnreadableAudioError(_damaged(name)) from error
        raise UnreadableAudioError(
            f"{name} is not an audio file that can be read. Give a WAV, FLAC, OGG, MP3 or M4A, or "
            "a video with an audio track."
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


def _damaged(name: str) -> str:
    return f"{name} is damaged or truncated. Fetch or save it again."


def _no_samples(name: str) -> str:
    return f"{name} holds no samples. Fetch or save it again."


def _not_finite(name: str) -> str:
    return f"{name} holds samples that are not finite (NaN or infinity). Save it again."


def _too_short(name: str, length: float, start: float) -> str:
    return f"{name} lasts {length:.1f} s, less than start={start:g}. Start earlier."


def _too_long(name: str, length: float | None) -> str:
    lasts = "more" if length is None else f"{length / 3600:.1f} h"
    return (
        f"{name} lasts {lasts}; at most {MAX_SECONDS // 60} minutes are read at once. Choose a "
        "part by start and seconds."
    )
