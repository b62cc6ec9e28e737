"""Generated files with the best and the worst scores."""

import io
from html import escape
from pathlib import Path

import numpy as np

from clip2clap.evaluation.datasets import DatasetItem, EvaluationDataset
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image
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


def example_sections(evaluation: GenerationEvaluation, dataset: EvaluationDataset) -> list[str]:
    """Write the generated files with the highest and the lowest scores as HTML, extreme ones first.

    They are at most ten each of the best translator by CLAP score (audio) or by similarity to real
    images; without these, by similarity to the translated embedding; without either, none.
    """
    level = evaluation.level
    metrics = {metric for one in evaluation.translators for metric in one.scores.metrics}
    metric = next((name for name in _CRITERIA[level] if name in metrics), None)
    if metric is None:
        return []
    scored = [one for one in evaluation.translators if metric in one.scores.metrics]
    best = max(scored, key=lambda one: one.scores.metrics[metric].value)
    values = evaluation.per_row[f"{best.scores.name}/{metric}"]
    order = np.argsort(-values, kind="stable")
    count = min(EXAMPLES, len(order) // 2)
    sections = []
    for title, rows in (("Best", order[:count]), ("Worst", order[::-1][:count])):
        figures = [
            _figure(dataset.items[row], best.files[row], float(values[row]), level)
            for row in rows.tolist()
        ]
        sections += [f"<h3>{title} {level}</h3>", f'<div class="examples">{"".join(figures)}</div>']
    return sections if count else []


def _figure(item: DatasetItem, generated: Path, score: float, level: str) -> str:
    """Show audio with its image; or an image with its recording, spectrogram and own image."""
    title, parts = escape(item.name), []
    audio = generated if level == "audio" else item.path
    images = {"image": item.path}
    if level == "images":
        images = {"generated image": generated, "own image": item.reference}
    shown = {name: load_image(file) for name, file in images.items() if file is not None}
    if level == "images" and audio is not None:
        shown = {"spectrogram": draw_spectrogram(*load_audio(audio), **_SPECTROGRAM), **shown}
    for name, image in shown.items():
        image, jpeg = image.convert("RGB"), io.BytesIO()
        image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
        image.save(jpeg, "JPEG", quality=90)
        source = data_uri(jpeg.getvalue(), "image/jpeg")
        parts.append(f'<img src="{source}" alt="{title}: {escape(name)}">')
    if audio is not None:
        ogg = io.BytesIO()
        write_audio(ogg, *load_audio(audio), format="ogg")
        source = data_uri(ogg.getvalue(), "audio/ogg")
        parts.append(
            f'<audio controls preload="none" src="{source}" aria-label="Audio of {title}"></audio>'
        )
    text = escape(f"{item.text or item.label or ''} {score:.3f}".strip())
    return f"<figure>{''.join(parts)}<figcaption>{title}<br>{text}</figcaption></figure>"
