"""Descriptions of embeddings in words: a caption, and keywords of a vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_integer

if TYPE_CHECKING:
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.keywords import KeywordExtractor


@dataclass(frozen=True)
class Description:
    """Caption and keywords, the likeliest first; empty where there is no model for them."""

    caption: str
    keywords: tuple[str, ...]


class Describer:
    """Describer of image and audio embeddings by a caption and by keywords.

    Args:
        captioner: Captioner; None for keywords alone.
        keywords: Keyword extractor; None for captions alone.
        num_keywords: Keywords per embedding.
        **options: Options of `Captioner.generate`, such as `num_beams`.

    Raises:
        UserError: If there is neither.

    Examples:
        >>> from clip2clap import ClapEncoder
        >>> from clip2clap.captioning import Captioner
        >>> from clip2clap.search import Describer, FileCaptioner, KeywordExtractor
        >>> clap = ClapEncoder.from_pretrained("demo")
        >>> captioner = FileCaptioner([Captioner.from_pretrained("demo-clap")], clap=clap)
        >>> describe = Describer(captioner, KeywordExtractor("esc50", clap=clap))
        >>> (found,) = describe("audio", clap.encode_audio(["bark.wav"]))
        >>> len(found.keywords)
        3
    """

    def __init__(
        self,
        captioner: "FileCaptioner | None" = None,
        keywords: "KeywordExtractor | None" = None,
        *,
        num_keywords: int = 3,
        **options: Any,
    ):
        if captioner is None and keywords is None:
            raise UserError("Expected a captioner or a keyword extractor, got neither.")
        holds = is_integer(num_keywords) and num_keywords >= 1
        expect(holds, "num_keywords", "at least 1", num_keywords)
        self.captioner, self.keywords = captioner, keywords
        self.num_keywords, self.options = num_keywords, options

    def __call__(self, modality: Literal["image", "audio"], embeds: Tensor) -> list[Description]:
        """Describe embeddings of the modality's encoder, shape (n, d)."""
        captions: Sequence[Sequence[str]] = [[""]] * len(embeds)
        if self.captioner is not None:
            captions = self.captioner.caption_embeds(modality, embeds, **self.options)
        words: Sequence[Sequence[tuple[str, float]]] = [[]] * len(embeds)
        if self.keywords is not None:
            words = self.keywords.describe_embeds(modality, embeds, self.num_keywords)
        return [
            Description(own[0], tuple(word for word, _ in ranked))
            for own, ranked in zip(captions, words, strict=True)
        ]
