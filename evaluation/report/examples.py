"""Generated files with the best and the worst scores."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip2clap.evaluation.datasets import DatasetItem, EvaluationDataset
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image, write_image
from clip2clap.media.spectrogram import draw_spectrogram
from clip2clap.media.writing import write_audio
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
    """Input and generated file for a report: images by name as JPEG, audio as Ogg Vorbis."""

    title: str
    text: str
    images: Sequence[tuple[str, bytes]] = ()
    audio: bytes | None = None


def select_examples(
    evaluation: GenerationEvaluation, dataset: EvaluationDataset
) -> tuple[list[Example], list[Example]]:
    """Select the generated files with the highest and the lowest scores, the extreme ones first.

    They are at most ten each of the best translator by CLAP score (audio) or by similarity to real
    images; without these, by similarity to the translated embedding; without either, none.
    """
    metrics = {metric for one in evaluation.translators for metric in one.scores.metrics}
    metric = next((name for name in _CRITERIA[evaluation.level] if name in metrics), None)
    if metric is None:
        return [], []
    scored = [one for one in evaluation.translators if metric in one.scores.metrics]
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
    audio = generated if level == "audio" else item.path
    images = {"image": item.path}
    if level == "images":
        images = {"generated image": generated, "own image": item.reference}
    shown = {name: load_image(file) for name, file in images.items() if file is not None}
    if level == "images" and audio is not None:
        shown = {"spectrogram": draw_spectrogram(*load_audio(audio), **_SPECTROGRAM), **shown}
    return Example(
        title=item.name,
        text=f"{item.text or item.label or ''} {score:.3f}".strip(),
        images=[(name, _thumbnail(image)) for name, image in shown.items()],
        audio=None if audio is None else _written("a.ogg", write_audio, *load_audio(audio)),
    )


def _figure(example: Example) -> str:
    title = escape(example.title)
    parts = [
        f'<img src="{data_uri(jpeg, "image/jpeg")}" alt="{title}: {escape(name)}">'
        for name, jpeg in example.images
    ]
    if example.audio is not None:
        source = data_uri(example.audio, "audio/ogg")
        parts.append(
            f'<audio controls preload="none" src="{source}" aria-label="Audio of {title}"></audio>'
        )
    caption = f"<figcaption>{title}<br>{escape(example.text)}</figcaption>"
    return f"<figure>{''.join(parts)}{caption}</figure>"


def _thumbnail(image: Image.Image) -> bytes:
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    return _written("a.jpg", write_image, image)


def _written(name: str, write: Callable[..., object], *content: Any) -> bytes:
    """Return the bytes of a file, such as Ogg Vorbis: a tenth of a WAV's."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / name
        write(path, *content)
        return path.read_bytes()
