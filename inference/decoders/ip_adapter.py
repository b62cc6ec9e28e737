"""Decoder of Stable Diffusion with an IP-Adapter."""

from typing import Any

from clip2clap.inference.decoders.base import TextDecoder
from clip2clap.inference.denoising import Tensors


class IPAdapterDecoder(TextDecoder):
    """Stable Diffusion decoder whose UNet attends to an image embedding through an IP-Adapter.

    See Ye et al. (2023), arXiv 2308.06721.
    """

    kind = "ip-adapter"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension."""
        return self.parts.ip_adapter.embed_dim

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        added = {"image_embeds": [tensors["image_embeds"].unsqueeze(1)]}
        return {"encoder_hidden_states": tensors["prompt_embeds"], "added_cond_kwargs": added}
