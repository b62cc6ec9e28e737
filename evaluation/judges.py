"""Who says what kind of thing a sound is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soxr
from torch import Tensor

from clip2clap.embeddings import ClapEncoder, UserError
from clip2clap.evaluation.stills import words_for

Sound = tuple[np.ndarray, int]
"""A waveform of shape (samples,) and its sampling rate in Hz."""


class Judge(Protocol):
    """Names the kind of each sound."""

    name: str
    """Who judges."""

    def __call__(self, sounds: Sequence[Sound], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each sound.

        Args:
            sounds: Waveforms and sampling rates.
            embeds: Their vectors in the CLAP that measures, shape (n, d), unit norm.
        """
        ...


class ZeroShotJudge:
    """The measuring CLAP, which takes the kind whose words lie nearest to the sound.

    Args:
        clap: The CLAP that sounds are measured with.
        kinds: What there is to choose from.
    """

    def __init__(self, clap: ClapEncoder, kinds: Sequence[str]):
        self.name = f"zero-shot by {clap.space('audio').model_id}"
        self._kinds = list(kinds)
        self._texts = clap.texts([words_for(kind) for kind in kinds])

    def __call__(self, sounds: Sequence[Sound], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each sound."""
        nearest = (embeds @ self._texts.T).argmax(1)
        return [self._kinds[place] for place in nearest.tolist()]


class ClassifierJudge:
    """An audio classifier of transformers, of whose labels the kinds are taken.

    Args:
        folder: A folder or hub id.
        kinds: What there is to choose from; each must be one of the classifier's labels, whatever
            its case, with spaces or underscores.

    Raises:
        UserError: If it can't be loaded, or doesn't know a kind.
    """

    def __init__(self, folder: str | Path, kinds: Sequence[str]):
        from transformers import pipeline

        self.name = str(folder)
        try:
            self._classify: Any = pipeline("audio-classification", model=str(folder))
        except (OSError, ValueError) as error:
            raise UserError(
                f"The judge {folder} can't be loaded as an audio classifier: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
        known = {_plain(label) for label in self._classify.model.config.id2label.values()}
        self._kinds = {_plain(kind): kind for kind in kinds}
        strange = [kind for plain, kind in self._kinds.items() if plain not in known]
        if strange:
            raise UserError(
                f"The judge {folder} doesn't know {', '.join(strange[:5])}; it knows "
                f"{', '.join(sorted(known)[:10])}. Name folders after its labels, or leave --judge "
                "out."
            )

    def __call__(self, sounds: Sequence[Sound], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each sound."""
        rate = self._classify.feature_extractor.sampling_rate
        waves = [wave if had == rate else soxr.resample(wave, had, rate) for wave, had in sounds]
        named = []
        for scores in self._classify(waves, top_k=None):
            ours = [score for score in scores if _plain(score["label"]) in self._kinds]
            best = max(ours, key=lambda score: score["score"])
            named.append(self._kinds[_plain(best["label"])])
        return named


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()
