"""Images to sound and sound to images: translators between CLIP and CLAP embedding spaces."""

import logging
from importlib import import_module
from typing import Any

import lazy_loader

from clip2clap.core.version import __version__ as __version__

# Images are always preprocessed with PIL, so transformers' notices that it falls back to PIL, which
# diffusers' imports cause without torchvision, are of no use.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "falling back to" not in record.getMessage()
)

_public, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# transformers warns where torchvision is missing that it reads images with PIL, as we always do.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

# diffusers looks up the components of a saved pipeline by the names in its model_index.json.
_COMPONENTS = {
    "ClassFilters": "models.class_filters",
    "EmbeddingMemory": "models.retrieval_memory",
    "IPAdapterWeights": "inference.loading.ip_adapter",
    "LearnedNegativeEmbedding": "models.negative_embedding",
    "PatchAutoencoder": "models.patch_autoencoder",
    "RetrievalMemory": "models.retrieval_memory",
    "SpectralVocoder": "models.spectral_vocoder",
}


def __getattr__(name: str) -> Any:
    """Import a public name, or a component that a saved pipeline names, on first use."""
    if name in _COMPONENTS:
        return getattr(import_module(f"clip2clap.{_COMPONENTS[name]}"), name)
    return _public(name)
