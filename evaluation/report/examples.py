"""What came out best and worst, to look at and to listen to."""

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clip2clap.evaluation.datasets.audio import AudioDataset
from clip2clap.evaluation.datasets.images import ImageDataset
from clip2clap.evaluation.generation.audio import AudioEvaluation, GeneratedAudio
from clip2clap.evaluation.generation.images import GeneratedImages, ImageEvaluation
from clip2clap.evaluation.report.page import EXAMPLES, Example
from clip2clap.media.audio import load_audio
from clip2clap.media.audio_writer import write_audio
from clip2clap.media.images import load_image
from clip2clap.media.spectrogram import draw_spectrogram

_LONGEST_SIDE = 320
_SPECTROGRAM = {"width": 320, "height": 144}


def best_and_worst(
    evaluation: AudioEvaluation, image_items: ImageDataset
) -> tuple[list[Example], list[Example]]:
    """Choose the sounds that suit their photographs best and worst.

    They are those of the translator with the highest CLAP score; without words, of the highest
    similarity to the translated vector; without either, none.

    Args:
        evaluation: What was measured.
        image_items: The photographs.

    Returns:
        At most ten of each, the best and the worst first.
    """

    def example(row: int, made: GeneratedAudio, value: float) -> Example:
        image_item = image_items.image_items[row]
        return Example(
            title=image_item.name,
            text=f"{image_item.words or ''} {value:.3f}".strip(),
            pictures=[("photograph", _thumbnail(load_image(image_item.photograph)))],
            sound=_packed(made.files[row]),
        )

    return _choose(evaluation, ("clap_score", "translated"), example)


def best_and_worst_images(
    evaluation: ImageEvaluation, audio_items: AudioDataset
) -> tuple[list[Example], list[Example]]:
    """Choose the pictures that suit their recordings best and worst.

    They are those of the translator with the highest similarity to true pictures; without these, to
    the translated vector; without either, none.

    Args:
        evaluation: What was measured.
        audio_items: The recordings.

    Returns:
        At most ten of each, the best and the worst first; each with the recording's spectrogram and
        its own picture, where there are files of these.
    """

    def example(row: int, made: GeneratedImages, value: float) -> Example:
        audio_item = audio_items.audio_items[row]
        pictures = [("picture made", _thumbnail(load_image(made.files[row])))]
        if audio_item.recording is not None:
            spectrogram = draw_spectrogram(*load_audio(audio_item.recording), **_SPECTROGRAM)
            pictures.insert(0, ("spectrogram", _thumbnail(spectrogram)))
        if audio_item.photograph is not None:
            pictures.append(("own picture", _thumbnail(load_image(audio_item.photograph))))
        return Example(
            title=audio_item.name,
            text=f"{audio_item.label or ''} {value:.3f}".strip(),
            pictures=pictures,
            sound=None if audio_item.recording is None else _packed(audio_item.recording),
        )

    return _choose(evaluation, ("true_picture", "translated"), example)


def _choose(
    evaluation: AudioEvaluation | ImageEvaluation,
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
        write_audio(packed, *load_audio(path))
        return packed.read_bytes()
