"""Names, phrases and captions of the demo speech encoder's training and evaluation."""

import csv
import random
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clip2clap.training.recipes.demo.words import CLASSES

_PHRASES = tomllib.loads(Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8"))

TRAINING_PHRASES: list[str] = _PHRASES["training"]
EVALUATION_PHRASES: list[str] = _PHRASES["evaluation"]
FOREIGN: dict[str, list[str]] = _PHRASES["foreign"]
"""Sentences that are not English, by eSpeak NG's language."""
TEMPLATES = ("{}", "a photo of a {}", "a picture of the {}")
"""Templates whose text embeddings are averaged for a name, which has no carrier phrase."""
MOST_WORDS = 8
"""Words of the longest caption, which fits a window at every rate."""


@dataclass(frozen=True)
class Sentence:
    """A text to be spoken, and the name, or the caption, that it means."""

    text: str
    meaning: str


def phrase(template: str, name: str) -> str:
    """Return a name within a phrase, with its article or its plural.

    Examples:
        >>> phrase("show me {a}", "airplane"), phrase("two {s}", "puppy")
        ('show me an airplane', 'two puppies')
    """
    article = "an" if name[0].lower() in "aeiou" else "a"
    return template.format(name, a=f"{article} {name}", s=_plural(name))


def name_sentences(
    imagenet: Sequence[str], *, seed: int, per_synonym: int, per_name: int
) -> list[Sentence]:
    """Draw phrases of ImageNet's names and the demo classes', most of their usual names."""
    rng = random.Random(seed)
    counts = dict.fromkeys(imagenet, per_name)
    for entry in CLASSES.values():
        usual, *others = entry["names"]
        counts |= dict.fromkeys(others, per_synonym) | {usual: 3 * per_synonym}
    return [
        Sentence(phrase(rng.choice(TRAINING_PHRASES), name), name)
        for name, count in counts.items()
        for _ in range(count)
    ]


def word_sentences(captions: Sequence[str], count: int, *, seed: int, each: int) -> list[Sentence]:
    """Draw phrases of the most frequent words of captions, so that no word is quite unheard."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    found = Counter(
        word for caption in captions for word in set(re.findall(r"[a-z]{3,}", caption.lower()))
    )
    # Equally frequent words are in order, so that a resumed run draws the same ones.
    ordered = sorted(found, key=lambda word: (-found[word], word))
    words = [word for word in ordered if word not in ENGLISH_STOP_WORDS][:count]
    rng = random.Random(seed)
    return [
        Sentence(phrase(rng.choice(TRAINING_PHRASES) if rng.random() < 0.7 else "{}", word), word)
        for word in words
        for _ in range(each)
    ]


def short_captions(path: Path, count: int, *, seed: int) -> list[str]:
    """Draw captions of at most eight words from a CSV file of AudioCaps."""
    with path.open(encoding="utf-8", newline="") as file:
        captions = sorted({row["caption"].strip() for row in csv.DictReader(file)})
    short = [caption for caption in captions if 2 <= len(caption.split()) <= MOST_WORDS]
    return random.Random(seed).sample(short, min(count, len(short)))


def _plural(name: str) -> str:
    if name.endswith(("s", "x", "ch", "sh")):
        return name if name.endswith("s") else f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"
