"""Audio of a film: excerpts joined by cross-fades, and windows of them."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clip2clap.inference.film.options import FilmOptions
from clip2clap.media.arrays import mix_down
from clip2clap.media.audio import stream_audio
from clip2clap.media.video import FILM_RATE


def film_audio(audios: Sequence[str | Path | bytes], options: FilmOptions) -> Iterator[np.ndarray]:
    """Read audio files in sequence, with equal-power cross-fades.

    An excerpt that is shorter than the cross-fade is faded over all its length.

    Yields:
        Blocks of shape (2, samples), float32, at `FILM_RATE`.

    Raises:
        UnreadableAudioError: If a file is unreadable.
    """
    fade = round(options.crossfade_in_s * FILM_RATE)
    held = np.zeros((2, 0), np.float32)
    for index, source in enumerate(audios):
        keep = fade if index < len(audios) - 1 else 0
        previous, held = held, np.zeros((2, 0), np.float32)
        blocks = stream_audio(
            source,
            sampling_rate=FILM_RATE,
            start=options.start_in_s,
            seconds=options.length_in_s,
        )
        for block in _faded_in(blocks, previous):
            held = np.concatenate([held, block], axis=1)
            if held.shape[1] > keep:
                ready = held.shape[1] - keep
                yield held[:, :ready]
                held = held[:, ready:]
    if held.shape[1]:
        yield held


class AudioReader:
    """Reader of any number of samples from a stream of audio blocks, shape (2, samples)."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self.position = 0
        """Number of samples read."""
        self.held = np.zeros((2, 0), np.float32)
        """Samples of the last block that are not read."""
        self._source = blocks

    def read_until(self, position: int) -> np.ndarray:
        """Read the samples up to a position, or to the end of the stream."""
        parts = [self.held]
        available = self.held.shape[1]
        while self.position + available < position:
            block = next(self._source, None)
            if block is None:
                break
            parts.append(block)
            available += block.shape[1]
        held = np.concatenate(parts, axis=1)
        read = held[:, : position - self.position]
        self.held = held[:, read.shape[1] :]
        self.position += read.shape[1]
        return read

    def read_rest(self) -> np.ndarray:
        """Read the samples that are left."""
        rest = np.concatenate([self.held, *self._source], axis=1)
        self.position += rest.shape[1]
        return rest


class AudioWindows:
    """Overlapping windows of a stream of audio blocks, each with its center in seconds.

    The last window ends with the audio; audio that is shorter than a window is one.
    """

    def __init__(self, blocks: Iterable[np.ndarray], options: FilmOptions):
        self.samples = 0
        """Number of samples read; once all windows are read, that of the audio."""
        self._blocks = blocks
        self._length = round(options.window_in_s * FILM_RATE)
        self._hop = max(1, round(options.hop_in_s * FILM_RATE))

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        held, start, end = np.zeros((2, 0), np.float32), 0, 0
        for block in self._blocks:
            held = np.concatenate([held, block], axis=1)
            self.samples += block.shape[1]
            while held.shape[1] >= self._length:
                end = start + self._length
                yield (start + end) / 2 / FILM_RATE, mix_down(held[:, : self._length])
                # The samples before the next window are kept, since the last window may need them.
                held, start = held[:, self._hop :], start + self._hop
        if end < self.samples:
            last = mix_down(held[:, -self._length :])
            yield (self.samples - len(last) / 2) / FILM_RATE, last


class WholeFiles:
    """Audio files of a film, each with its start and end in s, and its waveform in mono."""

    def __init__(self, audios: Sequence[str | Path | bytes], options: FilmOptions):
        self.samples = 0
        """Number of samples of the film so far; once all files are read, of all of it."""
        self._audios, self._options = audios, options
        self._fade = round(options.crossfade_in_s * FILM_RATE)

    def __iter__(self) -> Iterator[tuple[float, float, np.ndarray]]:
        held = 0
        for source in self._audios:
            blocks = stream_audio(
                source,
                sampling_rate=FILM_RATE,
                start=self._options.start_in_s,
                seconds=self._options.length_in_s,
            )
            channels = np.concatenate([np.zeros((2, 0), np.float32), *blocks], axis=1)
            start = self.samples - min(held, channels.shape[1])
            self.samples = max(self.samples, start + channels.shape[1])
            held = min(self._fade, channels.shape[1])
            yield start / FILM_RATE, self.samples / FILM_RATE, mix_down(channels)


def _faded_in(blocks: Iterator[np.ndarray], previous: np.ndarray) -> Iterator[np.ndarray]:
    """Mix the end of the previous audio into the beginning of this one."""
    if previous.shape[1]:
        reader = AudioReader(blocks)
        head = reader.read_until(previous.shape[1])
        overlap = head.shape[1]
        angle = (np.arange(overlap, dtype=np.float32) + 0.5) / max(1, overlap) * np.pi / 2
        before = previous.shape[1] - overlap
        yield previous[:, :before]
        yield previous[:, before:] * np.cos(angle) + head * np.sin(angle)
        yield reader.held
    yield from blocks
