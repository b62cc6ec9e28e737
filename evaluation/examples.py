"""The sounds that came out best and worst, to look at and to listen to."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip2clap.embeddings import load_image
from clip2clap.embeddings.sounds import load_sound
from clip2clap.evaluation.page import EXAMPLES, Example
from clip2clap.evaluation.sound_level import MadeSounds, SoundEvaluation
from clip2clap.evaluation.stills import Stills
from clip2clap.inference.audio_files import write_audio

_LONGEST_SIDE = 320


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
    for figure in ("clap_score", "translated"):
        scored = [one for one in evaluation.translators if getattr(one.scores, figure) is not None]
        if scored:
            made = max(scored, key=lambda one: getattr(one.scores, figure).value)
            values = evaluation.per_row[f"{made.scores.name}/{figure}"]
            order = np.argsort(-values, kind="stable")
            show = min(EXAMPLES, len(order) // 2)
            return (
                _examples(order[:show].tolist(), made, stills, values),
                _examples(order[::-1][:show].tolist(), made, stills, values),
            )
    return [], []


def _examples(
    rows: Sequence[int], made: MadeSounds, stills: Stills, values: np.ndarray
) -> list[Example]:
    return [
        Example(
            title=stills.stills[row].name,
            text=f"{stills.stills[row].words or ''} {values[row]:.3f}".strip(),
            picture=_thumbnail(stills.stills[row].photograph),
            sound=_packed(made.files[row]),
        )
        for row in rows
    ]


def _thumbnail(path: Path) -> bytes:
    picture = load_image(path)
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
