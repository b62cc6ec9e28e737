"""Demo decoder: a UNet conditioned on the embedding as class labels."""

from typing import Any

from clip2clap.inference.decoders.base import EmbeddingDecoder
from clip2clap.inference.denoising import Tensors


class DemoDecoder(EmbeddingDecoder):
    """Latent diffusion decoder conditioned on the CLIP embedding as class labels.

    Guidance steers away from the pipeline's `negative_embedding`, learned in training.
    """

    kind = "demo"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension."""
        return self.parts.unet.config["projection_class_embeddings_input_dim"]

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        return {"encoder_hidden_states": None, "class_labels": tensors["image_embeds"]}
