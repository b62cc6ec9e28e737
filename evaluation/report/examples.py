"""What came out best and worst, to look at and to listen to."""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip2clap.evaluation.datasets.audio import Takes
from clip2clap.evaluation.datasets.images import Stills
from clip2clap.evaluation.generation.audio import MadeSounds, SoundEvaluation
from clip2clap.evaluation.generation.images import MadePictures, PictureEvaluation
from clip2clap.evaluation.report.page import EXAMPLES, Example
from clip2clap.media.audio import load_sound
from clip2clap.media.audio_writer import write_audio
from clip2clap.media.images import load_image
from clip2clap.media.spectrogram import draw_spectrogram

_LONGEST_SIDE = 320
_SPECTROGRAM = {"width": 320, "height": 144}


def best_and_worst(
    evaluation: SoundEvaluation, stills: Stills
) -> tuple[list[Example], list[Example]]:
    """Choose the sounds that suit their photographs best and worst.

    They are those of the translator with the highest CLAP score; without words, of the highest
    similarity to the translated vector; without either, none.

    Args:
        evaluation: What was measured.
        stills: The photographs.

    Returns:
        At most ten of each, the best and the worst first.
    """

    def example(row: int, made: MadeSounds, value: float) -> Example:
        still = stills.stills[row]
        return Example(
            title=still.name,
            text=f"{still.words or ''} {value:.3f}".strip(),
            pictures=[("photograph", _thumbnail(load_image(still.photograph)))],
            sound=_packed(made.files[row]),
        )

    return _choose(evaluation, ("clap_score", "translated"), example)


def best_and_worst_pictures(
    evaluation: PictureEvaluation, takes: Takes
) -> tuple[list[Example], list[Example]]:
    """Choose the pictures that suit their recordings best and worst.

    They are those of the translator with the highest similarity to true pictures; without these, to
    the translated vector; without either, none.

    Args:
        evaluation: What was measured.
        takes: The recordings.

    Returns:
        At most ten of each, the best and the worst first; each with the recording's spectrogram and
        its own picture, where there are files of these.
    """

    def example(row: int, made: MadePictures, value: float) -> Example:
        take = takes.takes[row]
        pictures = [("picture made", _thumbnail(load_image(made.files[row])))]
        if take.recording is not None:
            spectrogram = draw_spectrogram(*load_sound(take.recording), **_SPECTROGRAM)
            pictures.insert(0, ("spectrogram", _thumbnail(spectrogram)))
        if take.photograph is not None:
            pictures.append(("own picture", _thumbnail(load_image(take.photograph))))
        return Example(
            title=take.name,
            text=f"{take.label or ''} {value:.3f}".strip(),
            pictures=pictures,
            sound=None if take.recording is None else _packed(take.recording),
        )

    return _choose(evaluation, ("true_picture", "translated"), example)


def _choose(
    evaluation: SoundEvaluation | PictureEvaluation,
    figures: Sequence[str],
    example: Callable[..., Example],
) -> tuple[list[Example], list[Example]]:
    """Show the rows of the best translator by the first figure that was measured."""
    for figure in figures:
        scored = [one for one in evaluation.translators if getattr(one.scores, figure) is not None]
        if scored:
            made = max(scored, key=lambda one: getattr(one.scores, figure).value)
            values = evaluation.per_row[f"{made.scores.name}/{figure}"]
            order = np.argsort(-values, kind="stable")
            show = min(EXAMPLES, len(order) // 2)
            best, worst = (
                [example(row, made, values[row]) for row in rows[:show].tolist()]
                for rows in (order, order[::-1])
            )
            return best, worst
    return [], []


def _thumbnail(picture: Image.Image) -> bytes:
    picture = picture.convert("RGB")
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _packed(path: Path) -> bytes:
    """Give a sound as Ogg Vorbis, a tenth of its size."""
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "sound.ogg"
        write_audio(packed, *load_sound(path))
        return packed.read_bytes()
