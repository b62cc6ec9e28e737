"""Base class of the image decoders, and their requests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.denoising import OnStep, Tensors, accepted_options, denoise
from clip2clap.inference.noise import draw_noise
from clip2clap.models.autoencoders import vae_scale_factor


@dataclass(frozen=True)
class Request:
    """Batch of images to generate, one row or entry per image."""

    embeds: Tensor
    """CLIP image embeddings at the norm the decoder was trained on, shape (n, d)."""

    generators: Sequence[torch.Generator]
    """Noise generator of each image."""

    num_inference_steps: int
    """Number of denoising steps."""

    guidance_scale: float
    """Strength of classifier-free guidance; disabled at 1 and below."""

    height: int
    """Height in pixels."""

    width: int
    """Width in pixels."""

    latents: Tensor | None = None
    """Starting noise in place of the generators', shape (n, channels, rows, columns)."""

    negative_embeds: Tensor | None = None
    """CLIP image embeddings to guide away from, shape (n, d)."""

    prompt: Sequence[str] | None = None
    """Texts for the decoder's own text encoder."""

    negative_prompt: Sequence[str] | None = None
    """Texts to guide away from."""

    image: Tensor | None = None
    """Images to start from, shape (n, 3, height, width), in [0, 1]."""

    strength: float = 0.8
    """Fraction of the starting image to replace, from 0 to 1."""

    eta: float = 0.0
    """Noise that DDIM adds."""

    noise_level: int = 0
    """Noise that stable unCLIP adds to the embeddings, as a timestep of its own schedule."""

    @property
    def guided(self) -> bool:
        """True if classifier-free guidance is on."""
        return self.guidance_scale > 1

    def __len__(self) -> int:
        return len(self.embeds)

    def split(self, batch_size: int) -> "list[Request]":
        """Split into batches of at most `batch_size` images."""
        rows = {
            name: value
            for name, value in vars(self).items()
            if isinstance(value, Tensor | list | tuple)
        }
        return [
            replace(self, **{name: value[at : at + batch_size] for name, value in rows.items()})
            for at in range(0, len(self), batch_size)
        ]


class ImageDecoder(ABC):
    """Diffusion decoder from CLIP image embeddings to images.

    The denoising loop is the same for all; a decoder defines how its UNet is conditioned and how
    latents are decoded to pixels.

    Args:
        pipeline: Pipeline with `unet`, `vae`, `scheduler` and further components of the decoder.
            They are read at each use, so that a component may be replaced.
    """

    kind: ClassVar[str]
    """Value of `decoder_kind` in a pipeline's config."""

    has_text_encoder: ClassVar[bool] = False
    """True if the UNet is conditioned on text too."""

    has_negative_embeds: ClassVar[bool] = False
    """True if guidance may steer away from a CLIP image embedding."""

    def __init__(self, pipeline: Any):
        self.parts = pipeline

    @property
    def space(self) -> EmbeddingSpace | None:
        """CLIP space of the embeddings it was trained on; None if unknown."""
        space = self.parts.config["clip_space"]
        return EmbeddingSpace.from_dict(space) if space else None

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Embedding dimension."""

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
    def size(self) -> int:
        """Height and width in pixels that it was trained on."""
        return self.parts.unet.config["sample_size"] * self.factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of one image's latents: (channels, rows, columns)."""
        channels = self.parts.unet.config["in_channels"]
        return channels, height // self.factor, width // self.factor

    @abstractmethod
    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""

    @abstractmethod
    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""

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
        scaled = (latents / vae.config["scaling_factor"]).to(vae.dtype)
        return unit_range(vae.decode(scaled, return_dict=False)[0])

    @torch.no_grad()
    def decode(self, request: Request, on_step: OnStep | None = None) -> Tensor:
        """Generate the latents of one batch.

        Noise comes from each image's own generator, so that a seed gives the same image in any
        batch.

        Args:
            request: Batch to generate.
            on_step: Called after every step.

        Returns:
            Latents of unit scale for `to_pixels`, shape (n, channels, rows, columns), float32.
        """
        parts, device = self.parts, self.parts._execution_device
        scheduler = parts.scheduler
        conditional, unconditional = self.condition(request)
        scheduler.set_timesteps(request.num_inference_steps, device=device)
        timesteps = scheduler.timesteps
        noise = request.latents
        if noise is None:
            shape = self.latent_shape(request.height, request.width)
            noise = draw_noise(shape, request.generators)
        noise = noise.to(device, torch.float32)
        if request.image is None:
            latents = noise * scheduler.init_noise_sigma
        else:
            timesteps = self._shortened(timesteps, request)
            latents = self.to_latents(request.image.to(device))
            if len(timesteps):
                latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(request)))
        return denoise(
            parts.unet,
            scheduler,
            latents,
            timesteps,
            conditional=conditional,
            unconditional=unconditional,
            unet_inputs=self.unet_inputs,
            guidance_scale=request.guidance_scale,
            guided_steps=range(len(timesteps)),
            step_options=accepted_options(scheduler, request.eta, request.generators),
            on_step=on_step,
        )

    def count_steps(self, request: Request) -> int:
        """Return the number of UNet timesteps of one batch."""
        scheduler = self.parts.scheduler
        scheduler.set_timesteps(request.num_inference_steps)
        if request.image is None:
            return len(scheduler.timesteps)
        return len(self._shortened(scheduler.timesteps, request))

    def _shortened(self, timesteps: Tensor, request: Request) -> Tensor:
        """Drop the timesteps that a starting image replaces, as diffusers does."""
        scheduler = self.parts.scheduler
        kept = min(int(request.num_inference_steps * request.strength), request.num_inference_steps)
        first = (request.num_inference_steps - kept) * getattr(scheduler, "order", 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return timesteps[first:]


class EmbeddingDecoder(ImageDecoder):
    """Decoder conditioned on an image embedding alone, guided away from another embedding."""

    has_negative_embeds = True

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""
        conditional = {"image_embeds": request.embeds}
        return conditional, {"image_embeds": self._negatives(request)} if request.guided else None

    def _negatives(self, request: Request) -> Tensor:
        """Return the embeddings to guide away from: the request's, learned ones, or zeros."""
        if request.negative_embeds is not None:
            return request.negative_embeds
        if self.parts.negative_embedding is not None:
            return self.parts.negative_embedding(len(request)).to(request.embeds)
        return torch.zeros_like(request.embeds)


class TextDecoder(ImageDecoder):
    """Decoder conditioned on an image embedding and on text, with a text encoder of its own."""

    has_text_encoder = True

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""
        embeds = self.embed(request)
        conditional = {
            "image_embeds": embeds,
            "prompt_embeds": self._encode_text(request.prompt, len(request)),
        }
        if not request.guided:
            return conditional, None
        return conditional, {
            "image_embeds": torch.zeros_like(embeds),
            "prompt_embeds": self._encode_text(request.negative_prompt, len(request)),
        }

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
        )
        device = self.parts._execution_device
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if masked else None
        states = encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
        return states[[unique.index(text) for text in texts]]


def unit_range(pixels: Tensor) -> Tensor:
    """Map pixels from [-1, 1] to [0, 1], float32, clamped."""
    return (pixels.float() / 2 + 0.5).clamp(0, 1)
