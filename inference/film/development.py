"""Film of images as they develop, step by step, with the audio that they were made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.inference.film.audio import film_audio
from clip2clap.inference.film.make import Film
from clip2clap.inference.film.options import FilmOptions
from clip2clap.media.video import FILM_RATE, FilmWriter

# Share of the time in which an image develops; it is shown as it ended for the rest.
_MOVING = 0.85
_SMALLEST_SIDE = 256


@dataclass(frozen=True)
class Development:
    """Frames of an image as it develops, of one size, and the audio that is heard beside."""

    frames: Sequence[Image.Image]
    audio: str | Path | None = None


def make_development_film(
    path: str | Path,
    parts: Sequence[Development],
    *,
    fps: Fraction | int = 12,
    silent_s: float = 6.0,
) -> Film:
    """Write a film of several images one after another, each as long as its audio.

    Frames are spread evenly over most of that time; the last one stays for the rest. Small ones are
    enlarged to sides of 256 pixels or more.

    Args:
        path: MP4 file, written atomically; its folder must exist.
        parts: Images that develop.
        fps: Frames per second.
        silent_s: Seconds of a part without audio.

    Raises:
        UserError: If there is no frame, or audio is unreadable.

    Examples:
        >>> from clip2clap.inference.film.development import Development, make_development_film
        >>> frames = [Image.new("RGB", (64, 64), color) for color in ("black", "gray", "white")]
        >>> make_development_film("gray.mp4", [Development(frames, "bark.wav")], fps=4).frames
        8
    """
    if not parts or not all(part.frames for part in parts):
        raise UserError("There are no frames to make a film of.", param="parts")
    width, height = _film_size(parts[0].frames[0])
    options = FilmOptions(fps=fps, width=width, height=height, crossfade_in_s=0)
    frames = samples = 0
    with (
        replacing(Path(path)) as partial,
        FilmWriter(partial, fps=fps, width=width, height=height) as writer,
    ):
        for part in parts:
            sound = np.zeros((2, round(silent_s * FILM_RATE)), np.float32)
            if part.audio is not None:
                sound = np.concatenate(list(film_audio([part.audio], options)), axis=1)
            count = max(1, round(sound.shape[1] / FILM_RATE * fps))
            end = round(count / fps * FILM_RATE)
            sound = np.pad(sound, ((0, 0), (0, max(0, end - sound.shape[1]))))[:, :end]
            shown, array = None, None
            for index in range(count):
                place = _place(index, count, len(part.frames))
                if place != shown or array is None:
                    shown, array = place, _scaled(part.frames[place], width, height)
                bounds = (round(at / fps * FILM_RATE) for at in (index, index + 1))
                writer.add_sound(sound[:, slice(*bounds)])
                writer.add_frame(array)
            frames, samples = frames + count, samples + end
    return Film(Path(path), frames, samples / FILM_RATE)


def _place(index: int, count: int, frames: int) -> int:
    """Return the place of the frame that is shown at an index among `count`."""
    return min(frames - 1, int(index / (_MOVING * count) * frames))


def _film_size(image: Image.Image) -> tuple[int, int]:
    times = max(1, -(-_SMALLEST_SIDE // min(image.size)))
    width, height = (side * times for side in image.size)
    return width + width % 2, height + height % 2


def _scaled(image: Image.Image, width: int, height: int) -> np.ndarray:
    scaled = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled)
