"""Metrics of captions, by the reference implementations of pycocoevalcap."""

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Any

from clip2clap.core.errors import MissingExtraError, UserError


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726) of captions.

    Words are lower case and without punctuation, as after the Stanford tokenizer that the reference
    runs in Java. The weights of n-grams come from these references, so that a score of a subset
    compares only with scores of the same subset.

    Args:
        captions: Caption of each item.
        references: Reference captions of each item.

    Raises:
        UserError: If the lengths differ, or an item has no reference.
        MissingExtraError: If pycocoevalcap is not installed.
    """
    scorer, texts, truths = _scorer("cider.cider", "Cider"), *_keyed(captions, references)
    return float(scorer().compute_score(truths, texts)[0])


def bleu(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Compute BLEU-1 to BLEU-4 (Papineni et al. 2002) of captions; errors are those of `cider`."""
    scorer, texts, truths = _scorer("bleu.bleu", "Bleu"), *_keyed(captions, references)
    with contextlib.redirect_stdout(io.StringIO()):
        return [float(each) for each in scorer(4).compute_score(truths, texts)[0]]


def rouge_l(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute ROUGE-L (Lin 2004) of captions; errors are those of `cider`."""
    scorer, texts, truths = _scorer("rouge.rouge", "Rouge"), *_keyed(captions, references)
    return float(scorer().compute_score(truths, texts)[0])


def _scorer(module: str, name: str) -> Any:
    from importlib import import_module

    try:
        return getattr(import_module(f"pycocoevalcap.{module}"), name)
    except ImportError as error:
        raise MissingExtraError(
            "Metrics of captions need pycocoevalcap: pip install 'clip2clap[captions]'."
        ) from error


def _keyed(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    if len(captions) != len(references):
        raise UserError(
            f"Expected references of each of {len(captions)} captions, got {len(references)}."
        )
    empty = [place for place, own in enumerate(references) if not own]
    if empty or not captions:
        raise UserError(f"Item {empty[0]} has no reference." if empty else "There are no captions.")
    texts = {place: [_words(text)] for place, text in enumerate(captions)}
    return texts, {place: [_words(text) for text in own] for place, own in enumerate(references)}


def _words(text: str) -> str:
    return " ".join(re.findall(r"[\w'-]+", text.lower()))
