"""Accuracy of the demo encoders on their 23 classes: by image, by audio, and across.

Test images are named by CLIP, and through the translator by CLAP, as what they would sound like;
test audio by CLAP, and through the translator back by CLIP, as what it would look like. Intervals
are of 95 %, and the control has shuffled labels.

    python benchmarks/classification.py --data DATA
"""

import random
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.evaluation.benchmarks.classification import Classification
from clip2clap.evaluation.report.benchmark import percent
from clip2clap.training.recipes.demo.data import SAMPLING_RATE, DemoData, read_audio


def drawn(rows: list[Any], count: int) -> list[Any]:
    """Draw up to a number of rows of each label from the test split."""
    by_label: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        if row.label and row.split == "test" and not getattr(row, "full_size", False):
            by_label[row.label].append(row)
    draw = random.Random(0)
    return [
        row
        for rows_of in by_label.values()
        for row in draw.sample(rows_of, min(count, len(rows_of)))
    ]


def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    images_per_class: Annotated[int, typer.Option(help="Test images of each class.")] = 50,
) -> None:
    """Print the accuracies as a Markdown table."""
    demo = DemoData(data)
    names = demo.class_names
    clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
    forward, back = (AutoTranslator.from_pretrained(name) for name in ("demo", "demo-back"))
    images = drawn(demo.images, images_per_class)
    audio = drawn(demo.audio, len(demo.audio))
    image_embeds = clip.encode_image([one.load() for one in images])
    audio_embeds = clap.encode_audio([(read_audio(one), SAMPLING_RATE) for one in audio])
    labels = {"image": ZeroShotClassifier(clip, names), "audio": ZeroShotClassifier(clap, names)}
    with torch.no_grad():
        rows: list[tuple[str, list[Any], Tensor, str]] = [
            ("images by CLIP", images, image_embeds, "image"),
            ("audio by CLAP", audio, audio_embeds, "audio"),
            ("images by what they would sound like", images, forward(image_embeds), "audio"),
            ("audio by what it would look like", audio, back(audio_embeds), "image"),
        ]
    print("| what is named | inputs | accuracy | top 5 | shuffled labels |\n|---|---|---|---|---|")
    for title, inputs, embeds, named_by in rows:
        measure = Classification(
            torch.tensor([names.index(one.label) for one in inputs]),
            [0] * len(inputs),
            range(len(inputs)),
            num_labels=len(names),
        )
        found = measure.zero_shot(embeds, labels[named_by].label_embeds, protocol="clip2clap")
        estimates = [found.accuracy, found.top_5, found.shuffled]
        cells = [percent(vars(one)) for one in estimates if one is not None]
        print(f"| {title} | {len(inputs)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
