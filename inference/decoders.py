"""Image decoders conditioned on CLIP image embeddings, one class per architecture."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.denoising import LatentDiffusion, Request, Tensors
from clip2clap.inference.noise import draw_noise
from clip2clap.models.autoencoders import decode, vae_scale_factor


class ImageDecoder(LatentDiffusion):
    """Diffusion decoder from CLIP image embeddings to images."""

    kind: ClassVar[str]
    """Value of `decoder_kind` in a pipeline's config."""

    has_text_encoder: ClassVar[bool] = False
    """True if the UNet is conditioned on text too."""

    has_negative_embeds: ClassVar[bool] = False
    """True if guidance may steer away from a CLIP image embedding."""

    @property
    def space(self) -> EmbeddingSpace | None:
        """CLIP space of the embeddings it was trained on; None if unknown."""
        return self.parts.generator_space

    @property
    def noise_levels(self) -> int:
        """Number of values of `noise_level`."""
        return 1

    @property
    def factor(self) -> int:
        """Downsampling factor per side, from pixels to latents."""
        return vae_scale_factor(self.parts.vae)

    @property
    def multiple(self) -> int:
        """Divisor of height and width, in pixels."""
        return self.factor

    @property
    def trained_size(self) -> int:
        """Height and width in pixels that it was trained on."""
        return self.parts.unet.config["sample_size"] * self.factor

    @property
    def size(self) -> int:
        """Height and width in pixels by default."""
        return self.parts.config["default_size"] or self.trained_size

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of one image's latents: (channels, rows, columns)."""
        channels = self.parts.unet.config["in_channels"]
        return channels, height // self.factor, width // self.factor

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        embeds = self._embeds_input(tensors["image_embeds"])
        return {"encoder_hidden_states": tensors.get("prompt_embeds"), **embeds}

    def _embeds_input(self, embeds: Tensor) -> dict[str, Any]:
        return {"class_labels": embeds}

    def generate_start(self, request: Request) -> Tensor:
        """Generate images at the size that was trained on, and enlarge them.

        Guidance to each image's own embedding is left to their refinement.
        """
        channels, *sides = request.shape
        scale = self.parts.unet.config["sample_size"] / min(sides)
        rows, columns = (round(side * scale) for side in sides)
        guidance = copy.copy(request.call.guidance)
        if guidance is None or guidance.targets is None:
            guidance = None
        else:
            guidance.on_outputs = None
        own = {"start_strength": None, "guidance": guidance}
        call = SimpleNamespace(**vars(request.call) | own)
        small = replace(request, call=call, shape=(channels, rows, columns))
        pixels = self.to_pixels(self.generate(small, lambda *_: {}))
        size = [side * self.factor for side in sides]
        return F.interpolate(pixels, size, mode="bicubic").clamp(0, 1)

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode images.

        Args:
            pixels: Shape (n, 3, height, width), in [0, 1].

        Returns:
            Latents of unit scale, shape (n, channels, height / factor, width / factor).
        """
        vae = self.parts.vae
        posterior = vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).latent_dist
        return posterior.mode().float() * vae.config["scaling_factor"]

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents of unit scale.

        Args:
            latents: Shape (n, channels, rows, columns).

        Returns:
            Images, shape (n, 3, height, width), float32, in [0, 1]; gradients are zero where
            values were clamped.
        """
        vae = self.parts.vae
        return _unit_range(decode(vae, latents / vae.config["scaling_factor"]))


class EmbeddingDecoder(ImageDecoder):
    """Decoder conditioned on an image embedding alone, guided away from another embedding."""

    has_negative_embeds = True

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n.

        Guidance steers away from the request's embeddings, the pipeline's `negative_embedding`, or
        zeros.
        """
        negatives, learned = request.negative_embeds, self.parts.negative_embedding
        if negatives is None and learned is not None:
            negatives = learned(len(request)).to(request.embeds)
        elif negatives is None:
            negatives = torch.zeros_like(request.embeds)
        conditional = {"image_embeds": request.embeds}
        return conditional, {"image_embeds": negatives} if request.guided else None


class DemoDecoder(EmbeddingDecoder):
    """Latent diffusion decoder conditioned on the CLIP embedding as class labels."""

    kind = "demo"


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

    def _embeds_input(self, embeds: Tensor) -> dict[str, Any]:
        return {"added_cond_kwargs": {"image_embeds": embeds}}

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode images (n, 3, height, width) in [0, 1]; MoVQ's latents are not scaled."""
        vae = self.parts.vae
        return vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).latents.float()

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents to images (n, 3, height, width) in [0, 1]."""
        # Without quantization, as in Kandinsky: the UNet's latents are between codebook entries.
        return _unit_range(decode(self.parts.vae, latents, force_not_quantize=True))


class TextDecoder(ImageDecoder):
    """Decoder conditioned on an image embedding and on text, with a text encoder of its own."""

    has_text_encoder = True

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""
        embeds, count = self.embed(request), len(request)
        prompt_embeds = self._encode_text(request.prompt, count)
        conditional = {"image_embeds": embeds, "prompt_embeds": prompt_embeds}
        if not request.guided:
            return conditional, None
        negatives = self._encode_text(request.negative_prompt, count)
        return conditional, {"image_embeds": torch.zeros_like(embeds), "prompt_embeds": negatives}

    def embed(self, request: Request) -> Tensor:
        """Return the embeddings in the format of the UNet, shape (n, ...)."""
        return request.embeds

    def _encode_text(self, texts: Sequence[str] | None, count: int) -> Tensor:
        """Encode texts, shape (n, tokens, d); None is the empty text."""
        tokenizer, encoder = self.parts.tokenizer, self.parts.text_encoder
        texts = list(texts) if texts is not None else [""] * count
        unique = list(dict.fromkeys(texts))
        tokens = tokenizer(
            unique,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).to(self.parts._execution_device)
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        states = encoder(tokens.input_ids, attention_mask=mask)[0]
        return states[[unique.index(text) for text in texts]]


class UnclipDecoder(TextDecoder):
    """Stable unCLIP decoder: Stable Diffusion 2.1 conditioned on an image embedding and text.

    It was trained on embeddings with noise added and is conditioned on the noise level too (Ramesh
    et al. 2022, arXiv 2204.06125). An item's generator draws that noise before the latents'.
    """

    kind = "stable-unclip"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension; half the UNet's input, the other half encodes the noise level."""
        return super().embed_dim // 2

    @property
    def noise_levels(self) -> int:
        """Number of values of `noise_level`."""
        return self.parts.image_noising_scheduler.config["num_train_timesteps"]

    def embed(self, request: Request) -> Tensor:
        """Return the noised embeddings with the embedded noise level, shape (n, 2 d)."""
        from diffusers.models.embeddings import get_timestep_embedding

        embeds = request.embeds.float().cpu()
        noise = draw_noise(embeds.shape[1:], request.generators)
        levels = torch.full((len(request),), request.call.noise_level)
        normalizer = self.parts.image_normalizer
        mean, std = (value.float().cpu() for value in (normalizer.mean, normalizer.std))
        scheduler = self.parts.image_noising_scheduler
        noised = scheduler.add_noise((embeds - mean) / std, noise, levels) * std + mean
        level_embeds = get_timestep_embedding(
            levels, embeds.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([noised, level_embeds], dim=1)


class IPAdapterDecoder(TextDecoder):
    """Stable Diffusion decoder whose UNet attends to an image embedding through an IP-Adapter.

    See Ye et al. (2023), arXiv 2308.06721.
    """

    kind = "ip-adapter"

    @property
    def embed_dim(self) -> int:
        """Embedding dimension."""
        return self.parts.ip_adapter.embed_dim

    def _embeds_input(self, embeds: Tensor) -> dict[str, Any]:
        return {"added_cond_kwargs": {"image_embeds": [embeds.unsqueeze(1)]}}


_DECODERS = {
    decoder.kind: decoder
    for decoder in (DemoDecoder, KandinskyDecoder, UnclipDecoder, IPAdapterDecoder)
}


def create_decoder(pipeline: Any, kind: str) -> ImageDecoder:
    """Create the decoder of a pipeline.

    Args:
        pipeline: Pipeline that holds the components.
        kind: `"demo"`, `"kandinsky-2-2"`, `"stable-unclip"` or `"ip-adapter"`.

    Raises:
        UserError: If `kind` is unknown.
    """
    if kind not in _DECODERS:
        raise UserError(
            f"Expected decoder_kind to be one of {', '.join(_DECODERS)}, got {kind!r}.",
            param="decoder_kind",
        )
    return _DECODERS[kind](pipeline)


def _unit_range(pixels: Tensor) -> Tensor:
    """Map pixels from [-1, 1] to [0, 1], float32, clamped."""
    return (pixels.float() / 2 + 0.5).clamp(0, 1)
