"""Audio-reactive video generation."""

import itertools
from collections.abc import Callable, Iterator, Sequence
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
from clip2clap.inference.film.path import BATCH_SIZE, Embed, embeds_of
from clip2clap.media.video import FILM_RATE, FilmWriter


@dataclass(frozen=True)
class Film:
    """Film that `make_film` wrote: numbers of frames and seconds include the title card."""

    path: Path
    frames: int
    seconds: float


def make_film(
    path: str | Path,
    audios: Sequence[str | Path | bytes],
    *,
    embed: Embed,
    make_frames: MakeFrames,
    options: FilmOptions,
    whole: bool = False,
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
        whole: Encode each file as a whole, as for speech, in place of windows.
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
    path, title = Path(path), _title_frames(options)
    silence = np.zeros((2, round(len(title) / options.fps * FILM_RATE)), np.float32)
    reader = AudioReader(itertools.chain([silence], film_audio(audios, options)))
    embeds, frames = embeds_of(audios, embed, options, whole=whole), 0
    with (
        closing(read_ahead(_generate(embeds, make_frames))) as generated,
        replacing(path) as partial,
        FilmWriter(partial, fps=options.fps, width=options.width, height=options.height) as writer,
    ):
        for batch in itertools.chain([title], generated):
            for frame in batch:
                frames += 1
                writer.add_sound(reader.read_until(round(frames / options.fps * FILM_RATE)))
                writer.add_frame(frame)
            if on_frames is not None and batch is not title:
                on_frames(frames)
        writer.add_sound(reader.read_rest())
    return Film(path, frames, reader.position / FILM_RATE)


def _generate(embeds: Iterator[Tensor], make_frames: MakeFrames) -> Iterator[np.ndarray]:
    """Yield batches of frames, while a thread computes the next batch of embeddings."""
    with closing(read_ahead(torch.stack(each) for each in batched(embeds, BATCH_SIZE))) as batches:
        yield from map(make_frames, batches)


def _title_frames(options: FilmOptions) -> list[np.ndarray]:
    """Return the frames of the title card, if there is one."""
    if not options.title:
        return []
    card = title_card(options.title, options.width, options.height)
    return [card] * round(options.title_in_s * options.fps)
