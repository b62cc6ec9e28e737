"""Pictures into sound and sound into pictures: translators between CLIP and CLAP."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clip2clap.allocator import keep_freed_memory
    from clip2clap.embeddings import ClapEncoder, ClipEncoder, EmbeddingSpace, EmbeddingTable
    from clip2clap.inference import (
        AudioToImagePipeline,
        EmbeddingMemory,
        ImageToAudioPipeline,
        IPAdapterWeights,
        LearnedNegativeEmbedding,
        PatchAutoencoder,
        SpectralVocoder,
    )
    from clip2clap.translator import (
        AutoTranslator,
        LinearTranslator,
        MLPTranslator,
        PriorTranslator,
        ResidualTranslator,
        Translator,
    )

__version__ = "0.1.0"

_HOMES = {
    "AudioToImagePipeline": "inference",
    "AutoTranslator": "translator",
    "ClapEncoder": "embeddings",
    "ClipEncoder": "embeddings",
    "EmbeddingMemory": "inference",
    "EmbeddingSpace": "embeddings",
    "EmbeddingTable": "embeddings",
    "IPAdapterWeights": "inference",
    "ImageToAudioPipeline": "inference",
    "LearnedNegativeEmbedding": "inference",
    "LinearTranslator": "translator",
    "MLPTranslator": "translator",
    "PatchAutoencoder": "inference",
    "PriorTranslator": "translator",
    "ResidualTranslator": "translator",
    "SpectralVocoder": "inference",
    "Translator": "translator",
    "keep_freed_memory": "allocator",
}

__all__ = [
    "AudioToImagePipeline",
    "AutoTranslator",
    "ClapEncoder",
    "ClipEncoder",
    "EmbeddingMemory",
    "EmbeddingSpace",
    "EmbeddingTable",
    "IPAdapterWeights",
    "ImageToAudioPipeline",
    "LearnedNegativeEmbedding",
    "LinearTranslator",
    "MLPTranslator",
    "PatchAutoencoder",
    "PriorTranslator",
    "ResidualTranslator",
    "SpectralVocoder",
    "Translator",
    "keep_freed_memory",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import clip2clap` stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'clip2clap' has no attribute {name!r}")
    return getattr(importlib.import_module(f"clip2clap.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """List the lazily imported names too."""
    return sorted([*globals(), *__all__])
