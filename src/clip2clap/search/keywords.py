"""Keywords of image and audio files: the nearest words of a vocabulary, with calibrated scores."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.metrics.calibration import Calibration
from clip2clap.search.classify import ClassifiedFile, FileClassifier
from clip2clap.search.labels import read_vocabulary

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.translator.base import Translator

CALIBRATIONS_FILE = DEMO_FOLDER / "calibrations.json"
"""Calibrations of the demo encoders, by the words' space, the files' modality and vocabulary."""


class KeywordExtractor:
    """Extractor of the words of a vocabulary that an image or audio file is nearest to.

    The scores of a vocabulary that was calibrated for the encoder, as the label sets were for the
    demo models, are the share of such words that are right; other scores are the model's softmax
    over the vocabulary.

    Args:
        vocabulary: Words to choose from, as `read_vocabulary` reads them.
        clip: CLIP that encodes images, or the words of translated audio.
        clap: CLAP that encodes audio, or the words of translated images.
        translator: Translator from one's space into the other's.
        templates: As for `ZeroShotClassifier`.

    Raises:
        UserError: As for `FileClassifier` and `read_vocabulary`.

    Examples:
        >>> from clip2clap import ClapEncoder
        >>> from clip2clap.search import KeywordExtractor
        >>> extractor = KeywordExtractor("esc50", clap=ClapEncoder.from_pretrained("demo"))
        >>> [(file,)] = [each.segments for each in extractor(["bark.wav"], k=3)]
        >>> len(file.labels), extractor.is_calibrated("audio")
        (3, True)
    """

    def __init__(
        self,
        vocabulary: str | Path | Sequence[str],
        *,
        clip: "ClipEncoder | None" = None,
        clap: "ClapEncoder | None" = None,
        translator: "Translator | None" = None,
        templates: str | Sequence[str] | None = None,
    ):
        self._classifier = FileClassifier(
            read_vocabulary(vocabulary),
            clip=clip,
            clap=clap,
            translator=translator,
            templates=templates,
        )
        is_set = isinstance(vocabulary, str) and templates is None
        self._calibrations = {
            modality: _find(space, modality, str(vocabulary))
            for modality, space in self._classifier.label_spaces.items()
            if is_set
        }

    def is_calibrated(self, modality: str) -> bool:
        """Return True if the scores of files of a modality are calibrated."""
        return self._calibrations.get(modality) is not None

    def __call__(self, files: Sequence[str | Path], **options: Any) -> Iterator[ClassifiedFile]:
        """Yield the keywords of files, in the order given.

        The files and options are those of a `FileClassifier`: `k` keywords per segment, and
        `window_s`, the length of the windows of a time line.
        """
        from clip2clap.search.files import modality_of

        for file in self._classifier(files, **options):
            calibration = self._calibrations.get(modality_of(file.source))
            if calibration is None:
                yield file
                continue
            segments = [
                replace(segment, labels=_calibrated(segment.labels, calibration))
                for segment in file.segments
            ]
            yield replace(file, segments=segments)

    def describe_embeds(
        self, modality: Literal["image", "audio"], embeds: Tensor, k: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Return keywords and scores of embeddings of the modality's encoder, shape (n, d)."""
        found = self._classifier.classify_embeds(modality, embeds, k)
        calibration = self._calibrations.get(modality)
        return found if calibration is None else [_calibrated(each, calibration) for each in found]


def _calibrated(
    labels: list[tuple[str, float]], calibration: Calibration
) -> list[tuple[str, float]]:
    values = calibration(np.array([value for _, value in labels]))
    return [(label, float(value)) for (label, _), value in zip(labels, values, strict=True)]


def _find(space: Any, modality: str, vocabulary: str) -> Calibration | None:
    for each in _calibrations():
        key = each["fingerprint"], each["modality"], each["vocabulary"]
        if key == (space.fingerprint, modality, vocabulary):
            return Calibration.from_dict(each["calibration"])
    return None


@cache
def _calibrations() -> list[dict[str, Any]]:
    if not CALIBRATIONS_FILE.is_file():
        return []
    return json.loads(CALIBRATIONS_FILE.read_text(encoding="utf-8"))["calibrations"]
