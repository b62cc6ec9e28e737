"""Captions that the demo captioners are trained on, and the words that name a class."""

import re
import tomllib
from pathlib import Path

from clip2clap.training.recipes.demo.words import CLASSES

_SENTENCES = tomllib.loads(Path(__file__).with_name("sentences.toml").read_text(encoding="utf-8"))
_PEOPLE = re.compile(
    r"\b(man|men|woman|women|people|person|speech|speak\w*|talk\w*|child\w*|kids?|bab\w+|voice\w*|"
    r"music|laugh\w*|girl|boy|sing\w*)\b"
)
# Longest natural caption of one class, in words.
_MOST_WORDS = 9
_VOWEL = re.compile(r"[aeiou]", re.IGNORECASE)


def clean(caption: str) -> str:
    """Return a caption in lower case without spaces around punctuation and a stop at the end."""
    text = " ".join(caption.lower().split())
    return re.sub(r" ([.,;:!?'])", r"\1", text).rstrip(" .")


def names_class(caption: str, label: str) -> bool:
    """Return whether a caption has a name of a class, in the singular or plural.

    The names are those in `demo/words.toml`, which has the texts that name the classes.
    """
    names = "|".join(re.escape(name) for name in CLASSES[label]["names"])
    return re.search(rf"\b({names})(s|es|'s)?\b", caption.lower()) is not None


def image_sentences(category: str, label: str) -> list[str]:
    """Return sentences of an image of a category, and of a demo class, or "" if it is of none."""
    thing = f"{'an' if _VOWEL.match(category) else 'a'} {category.lower()}"
    if label:
        context = _SENTENCES["context"][label]
        thing = context if category.lower() == label else f"{thing}, {context}"
    return [template.format(thing) for template in _SENTENCES["image"]["templates"]]


def audio_sentences(category: str, label: str) -> list[str]:
    """Return sentences of audio of a category, and of a demo class, or "" if it is of none."""
    if not label:
        name = category.replace("_", " ")
        return [template.format(name) for template in _SENTENCES["audio"]["other"]]
    captions = [each for each in CLASSES[label]["captions"] if names_class(each, label)]
    templates = _SENTENCES["audio"]["templates"]
    return [template.format(each) for each in captions for template in templates]


def natural_captions(captions: list[str], label: str) -> list[str]:
    """Return the short captions of a data set that name a class and no people, music or voices."""
    return [
        each
        for each in captions
        if len(each.split()) <= _MOST_WORDS
        and names_class(each, label)
        and not _PEOPLE.search(each)
        and not any(names_class(each, other) for other in CLASSES if other != label)
    ]
