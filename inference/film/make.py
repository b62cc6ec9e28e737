"""Audio-reactive video generation."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched, read_ahead
from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.inference.film.audio import AudioReader, film_audio
from clip2clap.inference.film.frames import MakeFrames, title_card
from clip2clap.inference.film.options import FilmOptions
from clip2clap.inference.film.path import BATCH_SIZE, Embed, frame_embeds
from clip2clap.media.video import FILM_RATE, FilmWriter


@dataclass(frozen=True)
class Film:
    """Film that `make_film` wrote."""

    path: Path
    """MP4 file."""

    frames: int
    """Number of frames, the title card's included."""

    seconds: float
    """Length of the audio in seconds, the title card's silence included."""


def make_film(
    path: str | Path,
    audios: Sequence[str | Path | bytes],
    *,
    embed: Embed,
    make_frames: MakeFrames,
    options: FilmOptions,
    on_frames: Callable[[int], None] | None = None,
) -> Film:
    """Generate a film that follows one audio file, or several in sequence.

    Audio encoding, generation and video encoding each run in a thread and exchange batches, so that
    memory does not grow with the film's length.

    Args:
        path: MP4 file, written atomically; its folder must exist.
        audios: Audio files of any length, as accepted by `load_audio`.
        embed: Encodes windows of the audio.
        make_frames: Generates frames.
        options: Options of the film.
        on_frames: Called with the number of frames, after each batch is written.

    Raises:
        UserError: If a file is unreadable, or all audio is silent.

    Examples:
        >>> from clip2clap import AudioToImagePipeline
        >>> from clip2clap.inference import FilmOptions, make_film
        >>> from clip2clap.inference.film.frames import DecodedFrames
        >>> pipe = AudioToImagePipeline.from_pretrained("demo")
        >>> options = FilmOptions(fps=2, width=64, height=64)
        >>> def embed(waveforms):
        ...     return pipe.translate(pipe.encode_audio([(each, 48_000) for each in waveforms]))
        >>> frames = DecodedFrames(pipe, options, calls={"num_inference_steps": 1})
        >>> film = make_film(
        ...     "bark.mp4", ["bark.wav"], embed=embed, make_frames=frames, options=options
        ... )
    """
    if not audios:
        raise UserError("There is no audio to make a film of.", param="audios")
    path = Path(path)
    reader = AudioReader(_with_title(film_audio(audios, options), options))
    embeds = read_ahead(_batches(frame_embeds(film_audio(audios, options), embed, options)))
    with (
        closing(read_ahead(_generated(embeds, make_frames))) as generated,
        replacing(path) as partial,
        FilmWriter(partial, fps=options.fps, width=options.width, height=options.height) as writer,
    ):
        frames = 0
        for batch in _title_batches(options):
            frames = _write(writer, reader, batch, frames, options)
        for batch in generated:
            frames = _write(writer, reader, batch, frames, options)
            if on_frames is not None:
                on_frames(frames)
        writer.add_sound(reader.read_rest())
    return Film(path, frames, reader.position / FILM_RATE)


def _generated(embeds: Generator[Tensor], make_frames: MakeFrames) -> Iterator[np.ndarray]:
    with closing(embeds):
        for batch in embeds:
            yield make_frames(batch)


def _batches(embeds: Iterator[Tensor]) -> Iterator[Tensor]:
    return (torch.stack(batch) for batch in batched(embeds, BATCH_SIZE))


def _title_frames(options: FilmOptions) -> int:
    return round(options.title_in_s * options.fps) if options.title else 0


def _title_batches(options: FilmOptions) -> Iterator[np.ndarray]:
    """Yield the frames of the title card, if there is one."""
    if options.title:
        card = title_card(options.title, options.width, options.height)
        yield from (card[None] for _ in range(_title_frames(options)))


def _with_title(blocks: Iterator[np.ndarray], options: FilmOptions) -> Iterator[np.ndarray]:
    """Prepend the title card's silence."""
    yield np.zeros((2, round(_title_frames(options) / options.fps * FILM_RATE)), np.float32)
    yield from blocks


def _write(
    writer: FilmWriter, reader: AudioReader, batch: np.ndarray, frames: int, options: FilmOptions
) -> int:
    """Write frames, each after its audio, and return their number so far."""
    for frame in batch:
        frames += 1
        writer.add_sound(reader.read_until(round(frames / options.fps * FILM_RATE)))
        writer.add_frame(frame)
    return frames
