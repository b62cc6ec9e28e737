"""Classifiers of generated audio and images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.zero_shot import ZeroShotClassifier as ZeroShotClassifier

Audio = tuple[np.ndarray, int]
"""Waveform, shape (samples,), and sampling rate in Hz."""

Task = Literal["audio-classification", "image-classification"]


class Classifier(Protocol):
    """Classifier of audio or of images."""

    @property
    def name(self) -> str:
        """Name in reports."""
        ...

    def __call__(self, inputs: Sequence[Any], embeds: Tensor) -> list[str]:
        """Return the most likely label of each input.

        Args:
            inputs: Waveforms with sampling rates, or images.
            embeds: Their embeddings in the measuring encoder, shape (n, d), unit norm.
        """
        ...


class TransformersClassifier:
    """Audio or image classifier of transformers, restricted to some of its labels.

    Args:
        model: Folder or hub id.
        labels: Labels to choose from; each must be one of the model's, ignoring case, with
            spaces or underscores.
        task: `audio-classification` or `image-classification`.

    Raises:
        UserError: If the model cannot be loaded, or lacks a label.

    Examples:
        >>> from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor
        >>> from clip2clap.evaluation import TransformersClassifier
        >>> config = ViTConfig(num_hidden_layers=1, id2label={0: "dog", 1: "rain", 2: "sea"})
        >>> ViTForImageClassification(config).save_pretrained("vit")
        >>> _ = ViTImageProcessor().save_pretrained("vit")
        >>> TransformersClassifier("vit", ["dog"], task="image-classification").name
        'vit'
    """

    def __init__(
        self, model: str | Path, labels: Sequence[str], *, task: Task = "audio-classification"
    ):
        from transformers import pipeline

        self.name = str(model)
        self._is_audio = task == "audio-classification"
        try:
            # The overloads accept a literal task, not a union of two.
            self._classify: Any = pipeline(task, model=str(model))  # pyright: ignore
        except (OSError, ValueError) as error:
            raise UserError(
                f"The classifier {model} can't be loaded as an "
                f"{task.replace('-classification', '')} classifier: {one_line(error, limit=200)}",
                param="classifier",
            ) from error
        known = {_normalized(label) for label in self._classify.model.config.id2label.values()}
        self._labels = {_normalized(label): label for label in labels}
        unknown = [label for key, label in self._labels.items() if key not in known]
        if unknown:
            raise UserError(
                f"The classifier {model} has no label {', '.join(unknown[:5])}. It has "
                f"{', '.join(sorted(known)[:10])}. Name folders after its labels, or choose "
                "another classifier.",
                param="classifier",
            )

    def __call__(self, inputs: Sequence[Any], embeds: Tensor) -> list[str]:
        """Return the most likely label of each waveform or image; `embeds` are not used."""
        if self._is_audio:
            prepared: list[Any] = [self._resampled(*audio) for audio in inputs]
        else:
            prepared = [image.convert("RGB") for image in inputs]
        named = []
        for scores in self._classify(prepared, top_k=self._classify.model.config.num_labels):
            known = [score for score in scores if _normalized(score["label"]) in self._labels]
            best = max(known, key=lambda score: score["score"])
            named.append(self._labels[_normalized(best["label"])])
        return named

    def _resampled(self, waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
        import soxr

        rate = self._classify.feature_extractor.sampling_rate
        return waveform if sampling_rate == rate else soxr.resample(waveform, sampling_rate, rate)


def _normalized(label: str) -> str:
    return " ".join(label.replace("_", " ").split()).casefold()
