"""Baseline of generation: by way of words, which a captioner finds for the inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from clip2clap.captioning.captioner import Captioner
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.text_to_image import TextToImage
from clip2clap.translator.base import Translator

WORDS_ROUTE = "words route"
"""Name of the baseline in tables."""


@dataclass(frozen=True)
class WordsBaseline:
    """Generation from captions of the inputs, in place of translated embeddings.

    Examples:
        >>> from clip2clap.captioning import Captioner
        >>> from clip2clap.evaluation.generation.words import WordsBaseline
        >>> route = WordsBaseline(Captioner.from_pretrained("demo"))
        >>> route.model is None
        True
    """

    captioner: Captioner
    """Captioner of the inputs' embeddings."""

    model: TextToImage | None = None
    """Text-to-image model that makes images of the captions; the pipeline itself if None."""

    def check_source(self, space: EmbeddingSpace | None) -> None:
        """Raise a `SpaceMismatchError` if the captioner reads another space."""
        if space is not None:
            self.captioner.check_source(space)

    def prompts(self, embeds: Tensor, modality: str) -> list[str]:
        """Return a caption of each embedding of a modality, shape (n, d)."""
        found: Sequence[Sequence[str]] = self.captioner.generate(embeds, modality=modality)
        return [own for own, *_ in found]


def check_sources(
    translators: Mapping[str, Translator], words: WordsBaseline | None, space: EmbeddingSpace | None
) -> None:
    """Raise a `SpaceMismatchError` if a translator or the captioner reads another space."""
    for route in (*translators.values(), *([] if words is None else [words])):
        route.check_source(space)
