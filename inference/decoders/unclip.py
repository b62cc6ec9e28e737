"""Decoder of stable unCLIP."""

from typing import Any

import torch
from torch import Tensor

from clip2clap.inference.decoders.base import Request, TextDecoder
from clip2clap.inference.denoising import Tensors
from clip2clap.inference.noise import draw_noise


class UnclipDecoder(TextDecoder):
    """Stable unCLIP decoder: Stable Diffusion 2.1 conditioned on an image embedding and text.

    It was trained on embeddings with noise added and is conditioned on the noise level too (Ramesh
    et al. 2022, arXiv 2204.06125). An item's generator draws that noise before the latents'.
    """

    kind = "stable-unclip"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension; half the UNet's input, the other half encodes the noise level."""
        return self.parts.unet.config["projection_class_embeddings_input_dim"] // 2

    @property
    def noise_levels(self) -> int:
        """Number of values of `noise_level`."""
        return self.parts.image_noising_scheduler.config["num_train_timesteps"]

    def embed(self, request: Request) -> Tensor:
        """Return the noised embeddings with the embedded noise level, shape (n, 2 d)."""
        from diffusers.models.embeddings import get_timestep_embedding

        embeds = request.embeds.float().cpu()
        noise = draw_noise(embeds.shape[1:], request.generators)
        levels = torch.full((len(request),), request.noise_level)
        normalizer = self.parts.image_normalizer
        mean, std = (value.float().cpu() for value in (normalizer.mean, normalizer.std))
        scheduler = self.parts.image_noising_scheduler
        noised = scheduler.add_noise((embeds - mean) / std, noise, levels) * std + mean
        level_embeds = get_timestep_embedding(
            levels, embeds.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([noised, level_embeds], dim=1)

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        return {
            "encoder_hidden_states": tensors["prompt_embeds"],
            "class_labels": tensors["image_embeds"],
        }
