"""Generated files with the best and the worst scores."""

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from clip2clap.evaluation.datasets import DatasetItem, EvaluationDataset
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.media.audio import load_audio, write_audio
from clip2clap.media.images import load_image
from clip2clap.media.spectrogram import draw_spectrogram
from clip2clap.report.page import data_uri

EXAMPLES = 10
"""Examples of the best and of the worst."""

# Metrics to choose by, the first that was measured.
_CRITERIA = {
    "audio": ("clap_score", "translated_similarity"),
    "images": ("real_similarity", "translated_similarity"),
}
_LONGEST_SIDE = 320
_SPECTROGRAM = {"width": 320, "height": 144}


@dataclass(frozen=True)
class Example:
    """Input and generated file for a report."""

    title: str
    """Name of the input."""

    text: str
    """Description and score."""

    images: Sequence[tuple[str, bytes]] = ()
    """Images: name and JPEG."""

    audio: bytes | None = None
    """Audio as Ogg Vorbis."""


def select_examples(
    evaluation: GenerationEvaluation, dataset: EvaluationDataset
) -> tuple[list[Example], list[Example]]:
    """Select the generated files with the highest and the lowest scores.

    They are those of the best translator by CLAP score (audio) or by similarity to real images;
    without these, by similarity to the translated embedding; without either, none.

    Args:
        evaluation: The evaluation.
        dataset: Its data set.

    Returns:
        At most ten of each, the best and the worst first.
    """
    for metric in _CRITERIA[evaluation.level]:
        scored = [one for one in evaluation.translators if metric in one.scores.metrics]
        if not scored:
            continue
        best = max(scored, key=lambda one: one.scores.metrics[metric].value)
        values = evaluation.per_row[f"{best.scores.name}/{metric}"]
        order = np.argsort(-values, kind="stable")
        count = min(EXAMPLES, len(order) // 2)
        highest, lowest = (
            [
                _example(dataset.items[row], best.files[row], float(values[row]), evaluation.level)
                for row in rows[:count].tolist()
            ]
            for rows in (order, order[::-1])
        )
        return highest, lowest
    return [], []


def example_sections(level: str, best: Sequence[Example], worst: Sequence[Example]) -> list[str]:
    """Write the examples as HTML."""
    sections = []
    for title, examples in ((f"Best {level}", best), (f"Worst {level}", worst)):
        if examples:
            cards = "".join(_figure(example) for example in examples)
            sections += [f"<h3>{title}</h3>", f'<div class="examples">{cards}</div>']
    return sections


def _example(item: DatasetItem, generated: Path, score: float, level: str) -> Example:
    """Return audio with its image; or an image with its recording, spectrogram and own image."""
    images, audio = [], generated if level == "audio" else item.path
    if level == "audio":
        assert item.path is not None
        images.append(("image", _thumbnail(load_image(item.path))))
    else:
        if item.path is not None:
            spectrogram = draw_spectrogram(*load_audio(item.path), **_SPECTROGRAM)
            images.append(("spectrogram", _thumbnail(spectrogram)))
        images.append(("generated image", _thumbnail(load_image(generated))))
        if item.reference is not None:
            images.append(("own image", _thumbnail(load_image(item.reference))))
    return Example(
        title=item.name,
        text=f"{item.text or item.label or ''} {score:.3f}".strip(),
        images=images,
        audio=None if audio is None else _compressed(audio),
    )


def _figure(example: Example) -> str:
    parts = []
    for name, jpeg in example.images:
        alt = escape(f"{example.title}: {name}")
        parts.append(f'<img src="{data_uri(jpeg, "image/jpeg")}" alt="{alt}">')
    if example.audio is not None:
        parts.append(
            f'<audio controls preload="none" src="{data_uri(example.audio, "audio/ogg")}" '
            f'aria-label="Audio of {escape(example.title)}"></audio>'
        )
    caption = f"{escape(example.title)}<br>{escape(example.text)}"
    return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>"


def _thumbnail(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _compressed(path: Path) -> bytes:
    """Convert audio to Ogg Vorbis, a tenth of its size."""
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / "audio.ogg"
        write_audio(packed, *load_audio(path))
        return packed.read_bytes()
