"""Decoder of Kandinsky 2.2."""

from typing import Any

from torch import Tensor

from clip2clap.inference.decoders.base import EmbeddingDecoder, unit_range
from clip2clap.inference.denoising import Tensors


class KandinskyDecoder(EmbeddingDecoder):
    """Kandinsky 2.2 decoder: a UNet conditioned on an image embedding alone, and MoVQ.

    See Razzhigaev et al. (2023), arXiv 2310.03502. Guidance steers away from the embedding of an
    all-zero image, which is the pipeline's `negative_embedding`.
    """

    kind = "kandinsky-2-2"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension."""
        return self.parts.unet.config["encoder_hid_dim"]

    @property
    def multiple(self) -> int:
        """Divisor of height and width, in pixels."""
        return self.factor**2

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        added = {"image_embeds": tensors["image_embeds"]}
        return {"encoder_hidden_states": None, "added_cond_kwargs": added}

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode images (n, 3, height, width) in [0, 1]; MoVQ's latents are not scaled."""
        vae = self.parts.vae
        return vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).latents.float()

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents to images (n, 3, height, width) in [0, 1]."""
        vae = self.parts.vae
        # Without quantization, as in Kandinsky: the UNet's latents are between codebook entries.
        decoded = vae.decode(latents.to(vae.dtype), force_not_quantize=True, return_dict=False)[0]
        return unit_range(decoded)
