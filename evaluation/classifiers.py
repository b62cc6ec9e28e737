"""Who says what kind of thing a sound or a picture is of."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import soxr
from PIL.Image import Image
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.evaluation.datasets.images import words_for

Sound = tuple[np.ndarray, int]
"""A waveform of shape (samples,) and its sampling rate in Hz."""

Task = Literal["audio-classification", "image-classification"]


class Classifier(Protocol):
    """Names the kind of each sound, or of each picture."""

    name: str
    """Who judges."""

    def __call__(self, things: Sequence[Any], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each thing.

        Args:
            things: Waveforms with sampling rates, or pictures.
            embeds: Their vectors in the encoder that measures, shape (n, d), unit norm.
        """
        ...


class ZeroShotClassifier:
    """The measuring CLAP or CLIP, which takes the kind whose words lie nearest.

    Args:
        encoder: What sounds or pictures are measured with.
        kinds: What there is to choose from.
    """

    def __init__(self, encoder: ClapEncoder | ClipEncoder, kinds: Sequence[str]):
        hears = encoder.family == "clap"
        self.name = f"zero-shot by {encoder.space('audio' if hears else 'image').model_id}"
        self._kinds = list(kinds)
        words = words_for if hears else _words_for_picture
        self._texts = encoder.encode_text([words(kind) for kind in kinds])

    def __call__(self, things: Sequence[Any], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each vector; things aren't looked at."""
        nearest = (embeds @ self._texts.T).argmax(1)
        return [self._kinds[place] for place in nearest.tolist()]


class TransformersClassifier:
    """A classifier of transformers, of whose labels the kinds are taken.

    Args:
        folder: A folder or hub id.
        kinds: What there is to choose from; each must be one of the classifier's labels, whatever
            its case, with spaces or underscores.
        task: What it classifies.

    Raises:
        UserError: If it can't be loaded, or doesn't know a kind.
    """

    def __init__(
        self, folder: str | Path, kinds: Sequence[str], *, task: Task = "audio-classification"
    ):
        from transformers import pipeline

        self.name = str(folder)
        self._hears = task == "audio-classification"
        try:
            # The overloads know each task by itself, not the choice of two.
            self._classify: Any = pipeline(task, model=str(folder))  # pyright: ignore
        except (OSError, ValueError) as error:
            raise UserError(
                f"The judge {folder} can't be loaded as an {task.replace('-classification', '')} "
                f"classifier: {one_line(error, limit=200)}"
            ) from error
        known = {_plain(label) for label in self._classify.model.config.id2label.values()}
        self._kinds = {_plain(kind): kind for kind in kinds}
        strange = [kind for plain, kind in self._kinds.items() if plain not in known]
        if strange:
            raise UserError(
                f"The judge {folder} doesn't know {', '.join(strange[:5])}; it knows "
                f"{', '.join(sorted(known)[:10])}. Name folders after its labels, or leave "
                "--classifier out."
            )

    def __call__(self, things: Sequence[Any], embeds: Tensor) -> list[str]:
        """Give the likeliest of the kinds for each sound or picture."""
        inputs = self._at_its_rate(things) if self._hears else [_as_rgb(one) for one in things]
        named = []
        for scores in self._classify(inputs, top_k=self._classify.model.config.num_labels):
            ours = [score for score in scores if _plain(score["label"]) in self._kinds]
            best = max(ours, key=lambda score: score["score"])
            named.append(self._kinds[_plain(best["label"])])
        return named

    def _at_its_rate(self, sounds: Sequence[Sound]) -> list[np.ndarray]:
        rate = self._classify.feature_extractor.sampling_rate
        return [wave if had == rate else soxr.resample(wave, had, rate) for wave, had in sounds]


def _words_for_picture(label: str) -> str:
    return f"a photo of a {label}"


def _as_rgb(picture: Image) -> Image:
    return picture.convert("RGB")


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()
