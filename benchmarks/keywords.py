"""Calibration of keywords of recordings and images with the demo encoders.

`python benchmarks/keywords.py --data DATA` fits on the validation split, writes the demo models'
`calibrations.json` and a reliability diagram, and prints the error on the test split.

A word is right if it is among those that `keywords.toml` lists for the item's category, so words
that happen to fit a recording beside its category count as wrong.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from clip2clap.core.files import replacing
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.metrics.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    fit_calibration,
    reliability,
)
from clip2clap.search.labels import Vocabulary, read_vocabulary
from clip2clap.training.recipes.captioner.data import CaptionerData, Media
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.translator.auto import AutoTranslator

_WORDS = tomllib.loads(Path(__file__).with_name("keywords.toml").read_text(encoding="utf-8"))
VOCABULARIES = ("audioset", "fsd50k", "esc50", "demo")
TOP = 10
# ESC-50's categories name few of the images.
LEAST_ITEMS = 50


def truths(vocabulary: Vocabulary, name: str, category: str, label: str) -> set[str]:
    """Return the words of a vocabulary that are right for a category, and demo class or ""."""
    if name == "demo":
        return {label} & vocabulary.keys()
    if name == "esc50":
        return {category.replace("_", " ")} & vocabulary.keys()
    known = _WORDS["audioset"]
    right = {*known.get(category, ()), *known.get(label, ())}
    # FSD50K's class Human voice and others of its own are right for no category here.
    return right & vocabulary.keys()


def scores(
    classifier: ZeroShotClassifier, media: Media, rows: list[int], right: list[set[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of the first words of items, and which are right, both (n,)."""
    nearest = classifier.nearest(media.embeds[rows], TOP)
    found = [
        (value, word in own)
        for each, own in zip(nearest, right, strict=True)
        for word, value in each
    ]
    values, correct = zip(*found, strict=True)
    return np.array(values), np.array(correct)


def calibrate(data: DemoData, folder: Path, target: Path) -> Iterator[str]:
    """Fit and measure the calibrations, and write them and the reliability diagram.

    Yields:
        Lines of a Markdown table: route, vocabulary, method, error before and after, and how often
        the first word is right.
    """
    cache = CaptionerData(data, folder)
    clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
    audio, images = cache.audio(), cache.images()
    with torch.no_grad():
        seen = AutoTranslator.from_pretrained("demo-back")(audio.embeds)
    as_images = Media(seen, audio.categories, audio.labels, audio.splits)
    routes: dict[str, tuple[Any, str, Media]] = {
        "audio": (clap, "audio", audio),
        "audio in CLIP": (clip, "audio", as_images),
        "image": (clip, "image", images),
    }
    entries, diagrams = [], {}
    yield "| route | words | uncalibrated | calibrated | first word right | test items |"
    yield "|---|---|---|---|---|---|"
    for route, (encoder, modality, media) in routes.items():
        for name in VOCABULARIES:
            vocabulary = read_vocabulary(name)
            classifier = ZeroShotClassifier(encoder, vocabulary)
            found = _fit(classifier, media, name, vocabulary, route)
            if found is None:
                continue
            entry, bins, line = found
            space = {"fingerprint": encoder.space("text").fingerprint, "modality": modality}
            entries.append({**space, "vocabulary": name, **entry})
            if name == "audioset":
                diagrams[route] = bins
            yield line
    with replacing(target / "calibrations.json") as partial:
        partial.write_text(json.dumps({"calibrations": entries}, indent=1) + "\n", encoding="utf-8")
    draw_reliability(folder / "reliability.png", diagrams)


def _fit(
    classifier: ZeroShotClassifier, media: Media, name: str, vocabulary: Vocabulary, route: str
) -> tuple[dict[str, Any], list[ReliabilityBin], str] | None:
    """Fit on the validation split; return the entry, the diagram's bins and the table's line.

    Too few items are not measured.
    """
    found = {}
    for split in ("validation", "test"):
        rows, right = [], []
        for row in media.rows(split):
            own = truths(vocabulary, name, media.categories[row], media.labels[row])
            if own:
                rows.append(row)
                right.append(own)
        if len(rows) < LEAST_ITEMS:
            return None
        found[split] = (*scores(classifier, media, rows, right), len(rows))
    values, correct, _ = found["validation"]
    calibration = fit_calibration(values, correct)
    tested, answers, count = found["test"]
    calibrated = calibration(tested)
    before, after = (expected_calibration_error(each, answers) for each in (tested, calibrated))
    first = answers.reshape(count, -1)[:, 0].mean()
    entry = {
        "calibration": calibration.to_dict(),
        "expected_calibration_error": round(after, 4),
        "items": count,
    }
    line = f"| {route} | {name} | {before:.3f} | {after:.3f} | {first:.1%} | {count} |"
    return entry, reliability(calibrated, answers), line


def draw_reliability(path: Path, diagrams: Mapping[str, list[ReliabilityBin]]) -> None:
    """Draw how often words are right by their score, one panel per route."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(diagrams), sharey=True, squeeze=False)[0]
    for axes, (route, bins) in zip(panels, diagrams.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        sizes = [12 * np.log1p(each.count) for each in bins]
        axes.scatter([b.probability for b in bins], [b.accuracy for b in bins], s=sizes)
        axes.set_title(route)
        axes.set_xlabel("Score")
        axes.set_aspect("equal")
    panels[0].set_ylabel("Share that is right")
    with replacing(path) as partial:
        figure.savefig(partial, format="png")


def main(
    data: Annotated[Path, typer.Option(help="Data folder; docs/demo-models.md has its layout.")],
    out: Annotated[Path, typer.Option(help="Folder of embeddings and diagram.")] = Path("keywords"),
    models: Annotated[Path, typer.Option(help="Folder of the calibrations.")] = DEMO_FOLDER,
) -> None:
    """Calibrate keywords on the validation split, and measure the error on the test split."""
    for line in calibrate(DemoData(data), out, models):
        print(line)


if __name__ == "__main__":
    typer.run(main)
