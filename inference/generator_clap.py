"""CLAP of a generator: loaded on demand, since it is no component of the pipeline."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model
from clip2clap.inference.loading.formats import is_clap_local

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder


class GeneratorClap:
    """CLAP that a pipeline's generator was trained with, loaded on demand.

    The text encoder is freed after each use and its embeddings are cached; the audio encoder is
    kept.

    Args:
        pipeline: Pipeline whose config names the CLAP; read at each use.
    """

    def __init__(self, pipeline: Any):
        self._pipeline = pipeline
        self.text_embeds: dict[str, Tensor] = {}
        """Cached embeddings by text."""
        self.audio_encoder: ClapEncoder | None = None
        """CLAP with its audio encoder, once loaded."""
        self.logit_scale = 1 / 0.07
        """Factor of similarities in its loss, for probabilities of labels; known once loaded."""

    @property
    def space(self) -> EmbeddingSpace | None:
        """Space of its embeddings; None if unknown."""
        return self._pipeline.generator_space

    @property
    def is_local(self) -> bool:
        """True if the empty prompt can be encoded without a download."""
        config, access = self._pipeline.config, self._pipeline._access
        return "" in self.text_embeds or is_clap_local(
            config["clap_id"], config["clap_revision"], **access
        )

    def is_model_of(self, encoder: "ClapEncoder | None") -> bool:
        """Return whether an audio encoder is this CLAP's, so that one embedding serves both."""
        own = self.space
        return encoder is not None and own is not None and own.same_model_as(encoder.space("audio"))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If the CLAP is unknown or cannot be loaded.
        """
        # One by one, so that what else is encoded does not change a prompt's last bits.
        return encode_cached(
            self.text_embeds,
            texts,
            lambda unknown: self._load("text").encode_text(unknown, batch_size=1),
        )

    def load_audio_encoder(self) -> "ClapEncoder":
        """Return the CLAP with its audio encoder, loaded once.

        Raises:
            UserError: If the CLAP is unknown, cannot be loaded or has no audio encoder.
        """
        if self.audio_encoder is None:
            self.audio_encoder = self._load("audio")
        return self.audio_encoder

    def _load(self, modality: Literal["text", "audio"]) -> "ClapEncoder":
        """Load one modality's encoder, and check that the generator was trained with it."""
        from clip2clap.embeddings.encoders.clap import ClapEncoder

        config = self._pipeline.config
        if config["clap_id"] is None:
            raise UserError(
                "This pipeline doesn't know its generator's CLAP (clap_id is not set). Give "
                "embeddings instead of text, or create it with clap_id=... and clap_space=..."
            )
        encoder = ClapEncoder.from_pretrained(
            config["clap_id"],
            revision=config["clap_revision"],
            modalities=(modality,),
            **self._pipeline._access,
        )
        if self._pipeline._low_memory:
            from clip2clap.inference.loading.components import stream_encoder

            access = {"revision": config["clap_revision"], **self._pipeline._access}
            stream_encoder(encoder, config["clap_id"], **access)
        if self.space is not None:
            require_same_model(self.space, encoder.space(modality), what="The generator's own CLAP")
        self.logit_scale = encoder.logit_scale
        return encoder


def encode_cached(
    cache: dict[str, Tensor], texts: Sequence[str], encode: Callable[[list[str]], Tensor]
) -> Tensor:
    """Encode texts, shape (n, d), those in the cache excepted; the cache is extended."""
    unknown = list(dict.fromkeys(text for text in texts if text not in cache))
    if unknown:
        cache.update(zip(unknown, encode(unknown), strict=True))
    return torch.stack([cache[text] for text in texts])
