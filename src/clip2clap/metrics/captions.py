"""Metrics of captions, by the reference implementations of pycocoevalcap and aac-metrics."""

import contextlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clip2clap.core.errors import MissingExtraError, ModelNotFoundError, UserError, one_line

_SPICE_MODELS = "stanford-corenlp-3.6.0"


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


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute METEOR 1.5 (Denkowski and Lavie 2014, https://doi.org/10.3115/v1/W14-3348) in Java.

    Arguments and errors are those of `cider`.

    Raises:
        MissingExtraError: If Java is not installed.
    """
    found, texts, truths = _scorer("meteor.meteor", "Meteor"), *_keyed(captions, references)
    _require_java("METEOR")
    scorer = found()
    try:
        return float(scorer.compute_score(truths, texts)[0])
    finally:
        scorer.meteor_p.kill()
        scorer.meteor_p.wait()


def spice(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute SPICE (Anderson et al. 2016, https://arxiv.org/abs/1607.08822) in Java.

    Arguments and errors are those of `cider`.

    Raises:
        MissingExtraError: If Java is not installed.
        ModelNotFoundError: If Stanford's parser, which is not in pycocoevalcap, is not on disk.
        UserError: If the program fails.
    """
    found, texts, truths = _scorer("spice.spice", "Spice"), *_keyed(captions, references)
    _require_java("SPICE")
    spec = find_spec("pycocoevalcap.spice")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "lib"
    if not all((folder / f"{_SPICE_MODELS}{end}.jar").is_file() for end in ("", "-models")):
        raise ModelNotFoundError(
            f"SPICE needs Stanford CoreNLP: put {_SPICE_MODELS}.jar and {_SPICE_MODELS}-models.jar "
            f"of stanford-corenlp-full-2015-12-09.zip into {folder}."
        )
    try:
        return float(found().compute_score(truths, texts)[0])
    except Exception as error:  # of a Java program
        raise UserError(f"SPICE cannot run: {one_line(error)}. It was made for Java 8.") from error


def spider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute SPIDEr (Liu et al. 2017, arXiv 1612.00370), the mean of CIDEr and SPICE.

    Arguments and errors are those of `spice`.
    """
    return (cider(captions, references) + spice(captions, references)) / 2


def fense(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Compute FENSE (Zhou et al. 2022, https://arxiv.org/abs/2110.04684), by aac-metrics.

    Arguments and errors are those of `cider`.

    Raises:
        MissingExtraError: If aac-metrics is not installed.
        ModelNotFoundError: If its models are not on disk and cannot be downloaded.
    """
    _keyed(captions, references)
    try:
        from aac_metrics.functional import (  # pyright: ignore[reportMissingImports]
            fense as compute,
        )
    except ImportError as error:
        raise MissingExtraError("FENSE needs aac-metrics: pip install aac-metrics.") from error
    try:
        scores: Any = compute(list(captions), [list(own) for own in references])
    except Exception as error:  # which errors depends on the libraries' clients
        raise ModelNotFoundError(
            f"The models of FENSE cannot be loaded ({one_line(error, limit=80)}). Fetch them with "
            "`aac-metrics-download`."
        ) from error
    return float(scores[0]["fense"])


METRICS: dict[str, Callable[..., float]] = {
    "cider": cider,
    "rouge_l": rouge_l,
    "meteor": meteor,
    "spice": spice,
    "spider": spider,
    "fense": fense,
}
"""Metrics that are one number."""

PUBLISHED = (
    ("CoNeTTE", "AudioCaps", {"spider": 0.441, "fense": 0.608}, "https://arxiv.org/abs/2309.00454"),
    ("CoNeTTE", "Clotho", {"spider": 0.305, "fense": 0.517}, "https://arxiv.org/abs/2309.00454"),
)
"""Published scores of test splits: model, data set, scores and source. SPIDEr is that of the paper,
FENSE that of the model's card."""


def measure_captions(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute every metric whose parts are on this machine.

    Returns:
        Metrics by name, with BLEU-1 to BLEU-4, and the reasons of those that are missing.

    Raises:
        UserError: As for `cider`.

    Examples:
        >>> from clip2clap.metrics.captions import measure_captions
        >>> found, missing = measure_captions(["a dog barks"], [["a dog barks", "a dog"]])
        >>> found["bleu_1"]
        1.0
    """
    found = {f"bleu_{at}": value for at, value in enumerate(bleu(captions, references), 1)}
    missing: dict[str, str] = {}
    for name, compute in METRICS.items():
        if name == "spider" and "spice" in found:
            # SPICE takes minutes.
            found[name] = (found["cider"] + found["spice"]) / 2
            continue
        try:
            found[name] = compute(captions, references)
        except (MissingExtraError, ModelNotFoundError) as error:
            missing[name] = str(error)
    return found, missing


def _require_java(metric: str) -> None:
    if shutil.which("java") is None:
        raise MissingExtraError(f"{metric} is a Java program, and there is no `java`: install one.")


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
