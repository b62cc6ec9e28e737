"""Decoding of audio files, and of videos' audio tracks, by FFmpeg."""

import contextlib
import io
from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate, chain, groupby, pairwise
from typing import Any, BinaryIO

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.media.headers import (
    flac_samples,
    id3_end,
    is_endless,
    is_media,
    is_padded_wav,
    is_whole_dolby_frame,
    is_whole_mpeg_frame,
    missing_mp3_bytes,
    read_ogg,
)
from clip2clap.media.sizes import is_cut_off

MAX_SECONDS = 1800
"""Maximum duration read into memory, in seconds; hours of audio would need gigabytes."""

SAMPLING_RATES = (100, 2_000_000)
"""Smallest and largest sampling rate that is read, in Hz: nothing that is heard lies beyond."""

_BLOCK = 2**14
# PyAV crashes on frames of this many planes or more.
_PLANES = 8
# Naming the formats keeps FFmpeg's rarer readers, some of which follow addresses in a file, away
# from files of unknown origin.
_CONTAINERS = (
    "mov,matroska,aac,mp3,ogg,wav,flac,aiff,au,w64,caf,asf,avi,mpegts,mpeg,flv,amr,wv,tta,voc,"
    "nistsphere,ircam,iff,ac3,eac3"
)
# Tags may be in any encoding.
_OPTIONS: dict[str, Any] = {
    "options": {"format_whitelist": _CONTAINERS},
    "metadata_errors": "replace",
}
# These store the duration of each track, and a position in them is found exactly.
_INDEXED = {"mov", "matroska", "wav", "flac", "aiff", "au", "w64", "caf"}
# In these FFmpeg finds a position by the bytes per second, which are exact for plain samples alone.
_COUNTED = {"wav", "aiff", "au", "w64"}
# These store a duration that FFmpeg does not estimate from the bit rate, most of them to a sample.
_MEASURED = {"mov", "flac", "aiff", "au", "tta", "wv"}
# Decoders of lossy formats need the preceding samples to decode a sample exactly.
_LEAD_IN_SECONDS = 0.5
# Frames of a lossy format at an end of a track that are not counted, or counted twice.
_TOLERANCE_SECONDS = 0.15
# Beginnings of tags between the frames of an MP3 or AAC.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
# Bytes of tags that editors strip from an MP3 without correcting its header.
_TAG_BYTES = 512


class UnreadableAudioError(UserError):
    """Error of audio that cannot be read; the message names it and the fix."""


def decode_audio(
    file: BinaryIO,
    name: str,
    *,
    start: float,
    seconds: float | None,
    sampling_rate: int | None = None,
    layout: str | None = None,
    most: float | None = None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Decode the default audio track of a file, or the part of some seconds from a start.

    Yields blocks, shape (channels, samples), float32, full scale at -1 and 1, and their sampling
    rate in Hz: by default that of the track's beginning. The layout is that of two or more
    channels; by default the track's own.

    Raises:
        UnreadableAudioError: If it cannot be decoded, is truncated, ends before `start`, is longer
            than `most` seconds, or holds no samples or non-finite ones.
    """
    with _opened(file, name) as track:
        check_sampling_rate(track.rate, name)
        rate = sampling_rate or track.rate
        length = track.length
        if length is not None and start >= length:
            raise UnreadableAudioError(too_short(name, length, start))
        if most and length and min(length - start, seconds or length) > most:
            raise UnreadableAudioError(too_long(name, length - start))
        track.seek(start)
        position, first = 0, round(start * rate)
        end = None if seconds is None else first + max(1, round(seconds * rate))
        for position, block in _blocks(track.frames(), rate, layout):
            kept = block[:, max(0, first - position) :]
            if end is not None:
                kept = kept[:, : max(0, end - max(position, first))]
            if not np.isfinite(kept).all():
                raise UnreadableAudioError(not_finite(name))
            position += block.shape[1]
            if kept.shape[1]:
                yield kept, rate
            if end is not None and position >= end:
                return
            if most and position - first > most * rate:
                raise UnreadableAudioError(too_long(name, None))
        if track.is_cut_off(position / rate):
            raise UnreadableAudioError(damaged(name))
        if not position and not start:
            raise UnreadableAudioError(f"{name} holds no samples. Fetch or save it again.")
        if position <= first:
            raise UnreadableAudioError(too_short(name, position / rate, start))


def read_metadata(file: BinaryIO, name: str) -> dict[str, str]:
    """Return the tags of an audio file and of its audio track, by their names in lower case.

    Raises:
        UnreadableAudioError: If it is no audio.
    """
    import av

    file.seek(0)
    try:
        with av.open(file, **_OPTIONS) as container:
            tracks = [track.metadata for track in container.streams.audio]
            found = [container.metadata, *tracks]
    except av.FFmpegError as error:
        raise UnreadableAudioError(not_audio(name)) from error
    return {key.lower(): value for tags in found for key, value in tags.items()}


class _Track:
    """Default audio track of an open container, and what its packets show of its end."""

    def __init__(self, container: Any, file: BinaryIO, name: str, *, has_end: bool):
        audio = container.streams.audio
        if not audio:
            raise UnreadableAudioError(f"{name} is a video without an audio track.")
        # Players start with the track that is flagged as the default.
        self._stream = next((stream for stream in audio if stream.disposition & 1), audio[0])
        codec = self._stream.codec_context
        if codec is None:
            raise UnreadableAudioError(
                f"{name} holds audio in a format that cannot be decoded. Convert it to WAV or FLAC."
            )
        self.rate = self._stream.rate
        duration = self._stream.duration
        is_known = duration and has_end
        self._duration = float(duration * self._stream.time_base) if is_known else None
        self._container, self._file, self._name = container, file, name
        self._format = container.format.name.split(",")[0]
        self._is_measured = self._format in _MEASURED
        if self._format == "ogg" and codec.name == "flac":
            # Its pages do not say how many follow.
            self._is_measured = True
            self._duration = flac_samples(codec.extradata or b"") / self.rate
        self._is_indexed = self._format in _INDEXED - _COUNTED or (
            self._format in _COUNTED and _is_plain(codec)
        )
        self.length = self._duration if self._is_indexed else None
        self._is_whole_frame = None
        if codec.name.startswith(("mp3", "mp2", "mp1")):
            self._is_whole_frame = is_whole_mpeg_frame
        elif self._format in ("ac3", "eac3"):
            self._is_whole_frame = is_whole_dolby_frame
        self._origin = float((self._stream.start_time or 0) * self._stream.time_base)
        self._is_sought = self._is_corrupt = False
        # Headers tell better whether a WAV is whole, and nothing tells it of an endless file.
        self._is_marked = self._format != "wav" and has_end
        self._last_packet = b""
        self._packets_end = 0.0

    def seek(self, start: float) -> None:
        """Go to shortly before a time, where the container can find it exactly."""
        import av

        if self._is_indexed and start > _LEAD_IN_SECONDS:
            self._is_sought = True
            self._container.seek(int((start - _LEAD_IN_SECONDS + self._origin) * av.time_base))

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Yield decoded frames with their times; the last of an MP4 without its codec's padding."""
        held = None
        for frame in self._decoded():
            if held is not None:
                yield self._time(held), held
            held = frame
        if held is not None:
            yield self._time(held), _without_padding(held) if self._format == "mov" else held

    def _time(self, frame: Any) -> float:
        return (frame.time or 0.0) - self._origin if self._is_sought else 0.0

    def _decoded(self) -> Iterator[Any]:
        # Matroska states one duration for all tracks together.
        streams = () if self._format == "matroska" else (self._stream,)
        is_gap, tag_bytes = False, 0
        for packet in self._container.demux(*streams):
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                self._packets_end = max(self._packets_end, float(end))
            if packet.stream.index != self._stream.index:
                continue
            self._is_corrupt |= packet.is_corrupt and self._is_marked
            if packet.size and self._format in ("mp3", "aac"):
                data = bytes(packet)
                # An image in a tag may hold what looks like frames.
                if tag_bytes <= 0 and data.startswith(_TAGS):
                    tag_bytes = id3_end(data)
                if tag_bytes > 0:
                    tag_bytes -= len(data)
                    continue
                if data[0] != 0xFF:
                    # Joined files have tags in between, which may seem to end within a frame, and
                    # some end in zeros.
                    is_gap = tag_bytes == 0 and not data.startswith(_TAGS)
                    continue
                tag_bytes = 0
                if is_gap:
                    raise UnreadableAudioError(damaged(self._name))
            if packet.size and self._is_whole_frame:
                self._last_packet = bytes(packet)
            yield from packet.decode()
        if tag_bytes > 0:
            raise UnreadableAudioError(damaged(self._name))

    def is_cut_off(self, seconds: float) -> bool:
        """Return True if the track, which was decoded to its end, is shorter than it should be."""
        import av

        is_whole = not self._is_whole_frame or self._is_whole_frame(self._last_packet)
        if self._is_corrupt or not is_whole:
            return True
        declared = None
        if self._format == "matroska" and self._container.duration:
            declared = self._container.duration / av.time_base
            # The last image of a slow video has no duration, and recorders in a browser measure
            # theirs by the clock. The size of the segment, where it is known, shows the rest.
            seconds = self._packets_end + 0.05 * declared
        elif self._format == "mp3":
            # Either count of the header may be wrong: tags are stripped, files are joined.
            if (missing_mp3_bytes(self._file) or 0) > _TAG_BYTES:
                declared = self._duration
        elif self._is_measured:
            declared = self._duration
            if self._format == "mov":
                # Without an edit list, a pause before the audio is a packet that lasts longer.
                seconds = max(seconds, self._packets_end - self._origin)
        is_exact = self._is_measured and self._format != "mov"
        tolerance = 0.01 if is_exact else _TOLERANCE_SECONDS
        return declared is not None and seconds < declared - tolerance


class _SoundFileTrack:
    """Ogg Vorbis, whose first and last sample FFmpeg may miss, and WAV that it misreads.

    The parts of a chain may have different rates and channels.
    """

    def __init__(self, parts: list[Any]):
        self._parts = parts
        self._first = 0
        self.rate = parts[0].samplerate
        self._ends = list(accumulate(part.frames / part.samplerate for part in parts))
        self.length = self._ends[-1]

    def seek(self, start: float) -> None:
        """Go to a time before the end."""
        self._first = bisect_right(self._ends, start)
        part, end = self._parts[self._first], self._ends[self._first]
        part.seek(max(0, part.frames - round((end - start) * part.samplerate)))

    def frames(self) -> Iterator[tuple[float, Any]]:
        """Yield decoded frames with their times."""
        import av

        for part, end in list(zip(self._parts, self._ends, strict=True))[self._first :]:
            layout = {1: "mono", 2: "stereo"}.get(part.channels, f"{part.channels}c")
            while len(read := part.read(_BLOCK, dtype="float32", always_2d=True)):
                block = read.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
                frame.sample_rate = part.samplerate
                left = part.frames - part.tell() + len(read)
                yield end - left / part.samplerate, frame

    def is_cut_off(self, seconds: float) -> bool:
        """Return True if the file ends before its last sample."""
        return seconds < self.length - _TOLERANCE_SECONDS


def _blocks(
    timed_frames: Iterator[tuple[float, Any]], rate: int, layout: str | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield samples, shape (channels, samples), resampled to one rate, and where they begin."""
    import av

    def format_of(timed: tuple[float, Any]) -> tuple[Any, ...]:
        return timed[1].sample_rate, timed[1].format.name, timed[1].layout.name

    position = None
    # The format of a recorded broadcast or of joined files may change in mid-stream.
    for (own_rate, *_), group in groupby(timed_frames, format_of):
        check_sampling_rate(own_rate, "a part of the audio")
        time, first = next(group)
        position = round(time * rate) if position is None else position
        # FFmpeg would attenuate mono audio when converting it to stereo.
        kept = layout if layout and first.layout.nb_channels > 1 else first.layout
        # Packed samples, since PyAV crashes on many planes.
        resampler = av.AudioResampler(format="flt", layout=kept, rate=rate, frame_size=_BLOCK)
        for frame in chain([first], (frame for _, frame in group), [None]):
            if frame is not None:
                # Where a video's audio starts does not matter here.
                frame.pts = None
            for part in resampler.resample(frame):
                yield position, part.to_ndarray().reshape(part.samples, -1).T
                position += part.samples


def check_sampling_rate(rate: float, name: str) -> None:
    """Raise for a sampling rate at which nothing can be heard, or that fills the memory."""
    least, most = SAMPLING_RATES
    if not least <= rate <= most:
        raise UnreadableAudioError(
            f"{name} has a sampling rate of {rate:,} Hz; expected {least} to {most:,} Hz. Save it "
            "again at the rate it was recorded at."
        )


def _is_plain(codec: Any) -> bool:
    """Return True if a codec's samples have the bytes per second that its file states."""
    if not codec.name.startswith("pcm_"):
        return False
    bits = int("".join(filter(str.isdigit, codec.name)) or 8)
    return codec.bit_rate == codec.rate * codec.channels * bits


@contextlib.contextmanager
def _opened(file: BinaryIO, name: str) -> Iterator[_Track | _SoundFileTrack]:
    """Open a file's audio track, and turn the libraries' errors into one line."""
    import av
    import soundfile

    is_audio = is_media(file)
    try:
        if is_cut_off(file):
            raise UnreadableAudioError(damaged(name))
        starts, is_whole = read_ogg(file)
        if not is_whole:
            raise UnreadableAudioError(damaged(name))
        has_end, is_padded = not is_endless(file), is_padded_wav(file)
        file.seek(0)
        if starts or is_padded:
            with contextlib.ExitStack() as opened:
                parts = [file] if len(starts) < 2 else _cut(file, starts)
                sounds = [opened.enter_context(soundfile.SoundFile(part)) for part in parts]
                yield _SoundFileTrack(sounds)
            return
        with av.open(file, **_OPTIONS) as container:
            is_audio = True
            yield _Track(container, file, name, has_end=has_end)
    except UserError:
        raise
    except Exception as error:  # a damaged file can make a decoder raise almost anything
        if isinstance(error, MemoryError) and not isinstance(error, av.FFmpegError):
            raise
        if is_audio:
            raise UnreadableAudioError(damaged(name)) from error
        raise UnreadableAudioError(not_audio(name)) from error


def _cut(file: BinaryIO, starts: list[int]) -> list[BinaryIO]:
    """Return the parts of a file that begin at some places."""
    file.seek(0)
    content = file.read()
    return [io.BytesIO(content[slice(*ends)]) for ends in pairwise([*starts, len(content)])]


def _without_padding(frame: Any) -> Any:
    import av

    is_counted = frame.time_base == Fraction(1, frame.sample_rate) and frame.duration
    is_padded = is_counted and frame.duration < frame.samples
    if not (is_padded and frame.format.is_planar and frame.layout.nb_channels < _PLANES):
        return frame
    samples = np.ascontiguousarray(frame.to_ndarray()[:, : frame.duration])
    kept = av.AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    kept.sample_rate, kept.time_base, kept.pts = frame.sample_rate, frame.time_base, frame.pts
    return kept


def damaged(name: str) -> str:
    """Return the message of a file that is not whole."""
    return f"{name} is damaged or truncated. Fetch or save it again."


def not_audio(name: str) -> str:
    """Return the message of a file that is no audio."""
    return (
        f"{name} is not an audio file that can be read. Give a WAV, FLAC, OGG, MP3 or M4A, or a "
        "video with an audio track."
    )


def not_finite(name: str) -> str:
    """Return the message of audio with NaN or infinity."""
    return f"{name} holds samples that are not finite (NaN or infinity). Save it again."


def too_short(name: str, length: float, start: float) -> str:
    """Return the message of audio that ends before a part begins; its length may be 0, unknown."""
    lasts = f"lasts {length:.1f} s, less than" if length else "ends before"
    return f"{name} {lasts} start={start:g}. Start earlier."


def too_long(name: str, length: float | None) -> str:
    """Return the message of audio that is too long to be read at once."""
    lasts = "more" if length is None else f"{length / 3600:.1f} h"
    return (
        f"{name} lasts {lasts}; at most {MAX_SECONDS // 60} minutes are read at once. Choose a "
        "part by start and seconds."
    )
