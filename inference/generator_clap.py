"""The CLAP that a generator was trained with: no part of the pipeline, but at hand for words."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model
from clip2clap.inference.compatibility import clap_on_disk


class GeneratorClap:
    """The CLAP that a pipeline's generator was trained with, loaded when it is asked for.

    The text tower is freed again after each use, and what it read is kept; the audio tower stays.

    Args:
        pipeline: Its config says which CLAP that is. It is looked up when it is used.
    """

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline
        self._known: dict[str, Tensor] = {}
        self._hearing: ClapEncoder | None = None

    @property
    def space(self) -> EmbeddingSpace | None:
        """The space of its embeddings; None if it isn't known."""
        space = self._pipeline.config["clap_space"]
        return EmbeddingSpace.from_dict(space) if space else None

    @property
    def is_at_hand(self) -> bool:
        """Whether the empty prompt can be embedded without a download."""
        config = self._pipeline.config
        if "" in self._known:
            return True
        name = config["clap_id"]
        return name is not None and clap_on_disk(name, revision=config["clap_revision"])

    def is_model_of(self, encoder: ClapEncoder | None) -> bool:
        """Tell whether an encoder that hears is this one, so that one vector serves both."""
        own = self.space
        return encoder is not None and own is not None and own.same_model_as(encoder.space("audio"))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed words, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If it isn't known where it can be loaded from, or it can't be.
        """
        unknown = list(dict.fromkeys(text for text in texts if text not in self._known))
        if unknown:
            encoder = self._load("text")
            self._known.update(zip(unknown, encoder.encode_text(unknown), strict=True))
        return torch.stack([self._known[text] for text in texts])

    def hearing(self) -> ClapEncoder:
        """Give it with its audio tower, loaded once.

        Raises:
            UserError: If it isn't known where it can be loaded from, or it has none.
        """
        if self._hearing is None:
            self._hearing = self._load("audio")
        return self._hearing

    def _load(self, tower: Literal["text", "audio"]) -> ClapEncoder:
        """Load one tower, and prove that it is the one the generator was trained with."""
        config = self._pipeline.config
        if config["clap_id"] is None:
            raise UserError(
                "This pipeline doesn't know its generator's CLAP (clap_id is not set). Give "
                "vectors instead of words, or make it with clap_id=... and clap_space=..."
            )
        encoder = ClapEncoder.from_pretrained(
            config["clap_id"], revision=config["clap_revision"], modalities=(tower,)
        )
        if self.space is not None:
            require_same_model(self.space, encoder.space(tower), what="The generator's own CLAP")
        return encoder
