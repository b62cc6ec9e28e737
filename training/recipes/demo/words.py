"""Texts of the demo classes and the ImageNet classes below them, which `words.toml` has."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))

CLASSES: dict[str, dict[str, Any]] = _WORDS["classes"]
"""Names, captions, texts for evaluation, and ImageNet classes of each class."""

FURTHER_CLASSES: dict[str, str] = _WORDS["further_classes"]
"""Classes of audio that there are no images of, with the ImageNet classes of what sounds so."""

INNER_NAMES: dict[str, str] = _WORDS["inner_names"]
"""Names between ImageNet's classes and the demo classes, with their ImageNet classes."""

IMAGE_TEMPLATES: list[str] = _WORDS["templates"]["image"]
AUDIO_TEMPLATES: list[str] = _WORDS["templates"]["audio"]


def image_phrases(name: str) -> list[str]:
    """Return texts that describe an image of a class, but for names with vectors of their own."""
    names = [synonym for synonym in CLASSES[name]["names"] if synonym not in INNER_NAMES]
    return _fill(names, IMAGE_TEMPLATES)


def audio_phrases(name: str) -> list[str]:
    """Return texts that describe audio of a class."""
    return [*_fill(CLASSES[name]["names"], AUDIO_TEMPLATES), *CLASSES[name]["captions"]]


def members(numbers: str) -> list[int]:
    """Return the ImageNet classes of an entry of `words.toml`, such as `3-5 9`."""
    ends = [part.split("-") for part in numbers.split()]
    return [number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)]


def _fill(names: Sequence[str], templates: list[str]) -> list[str]:
    templates = [*templates, *_WORDS["templates"]["sentence"]]
    return [template.format(name) for name in names for template in templates]
