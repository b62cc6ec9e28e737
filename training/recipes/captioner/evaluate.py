"""Evaluation of the demo captioners on the test split."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from clip2clap.captioning.captioner import Captioner
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.metrics.captions import PUBLISHED, measure_captions
from clip2clap.training.recipes.captioner.data import CaptionerData, Media
from clip2clap.training.recipes.captioner.texts import clean, names_class
from clip2clap.training.recipes.demo.data import DemoData

_TOKENS = 28
CANDIDATES = 48


def naming(captioner: Captioner, media: Media, modality: str) -> dict[str, float]:
    """Return how often captions of test items name their class, by class and on average."""
    rows = media.rows("test", labeled=True)
    captions = captioner.generate(media.embeds[rows], modality=modality, max_new_tokens=_TOKENS)
    found: dict[str, list[bool]] = defaultdict(list)
    for row, (caption,) in zip(rows, captions, strict=True):
        found[media.labels[row]].append(names_class(caption, media.labels[row]))
    shares = {label: sum(own) / len(own) for label, own in sorted(found.items())}
    return {**shares, "all": sum(map(sum, found.values())) / len(rows)}


def reconstruction(
    captioner: Captioner, data: CaptionerData, *, clips: int | None = None
) -> dict[str, dict[str, float]]:
    """Return metrics of AudioCaps' test captions from the embedding of one, and of baselines.

    The references are all captions of a clip; the source is the embedding of its first caption. The
    baselines are the caption of the training set nearest to it, the most frequent one, and another
    clip's caption at random.
    """
    embeds, train = data.text_embeds("test"), data.text_embeds("train")
    references: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for place, row in enumerate(data.audiocaps("test")):
        references[row["youtube_id"]].append(clean(row["caption"]))
        first.setdefault(row["youtube_id"], place)
    ids = list(references)[:clips]
    source = embeds[[first[each] for each in ids]]
    options: dict[str, Any] = {"modality": "text", "max_new_tokens": _TOKENS}
    said = captioner.generate(source, **options)
    encoder = ClapEncoder.from_pretrained("demo")
    nearest_said = captioner.generate_nearest(source, encoder, num_candidates=CANDIDATES, **options)
    known = data.captions("train")
    nearest = [known[row] for part in source.split(256) for row in (part @ train.T).argmax(1)]
    (most, _), *_ = Counter(known).most_common(1)
    rng = random.Random(0)
    others = [references[rng.choice([e for e in ids if e != each])][0] for each in ids]
    rows = {
        "captioner": [text for (text,) in said],
        f"captioner, nearest of {CANDIDATES} candidates": [text for (text,) in nearest_said],
        "nearest training caption": nearest,
        "most frequent caption": [most] * len(ids),
        "another clip's caption": others,
    }
    truth = [references[each] for each in ids]
    return {name: measure_captions(texts, truth)[0] for name, texts in rows.items()}


def evaluate(data: DemoData, folder: Path, models: Path, report: Callable[[str], Any]) -> None:
    """Report lines of both evaluations of the captioners in a folder."""
    cache = CaptionerData(data, folder)
    captioners = {each: Captioner.from_pretrained(models / each) for each in ("clap", "clip")}
    torch.manual_seed(0)
    for name, media, modality in (
        ("clap", cache.audio(), "audio"),
        ("clip", cache.images(), "image"),
    ):
        shares = naming(captioners[name], media, modality)
        worst: Sequence[str] = sorted(shares, key=lambda label: shares[label])[:5]
        listed = ", ".join(f"{label} {shares[label]:.0%}" for label in worst)
        report(f"{modality}: {shares['all']:.1%} name their class; least often {listed}")
    for name, found in reconstruction(captioners["clap"], cache).items():
        report(f"{name}: " + ", ".join(f"{metric} {value:.3f}" for metric, value in found.items()))
    for name, data_set, scores, source in PUBLISHED:
        listed = ", ".join(f"{metric} {value:.3f}" for metric, value in scores.items())
        report(f"{name}, published, of {data_set}'s recordings: {listed} ({source})")
