"""Networks that paint a picture from a CLIP image embedding, behind one interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.noise import draw_noise, step_options
from clip2clap.models.autoencoders import vae_scale_factor


@dataclass(frozen=True)
class Request:
    """What to paint, and how: one row or entry for each picture."""

    embeds: Tensor
    """CLIP image embeddings at the norm that the decoder knows, shape (n, d)."""

    generators: Sequence[torch.Generator]
    """Where each picture's noise comes from."""

    num_inference_steps: int
    """Denoising steps."""

    guidance_scale: float
    """Strength of classifier-free guidance; 1 and less turn it off."""

    height: int
    """In pixels."""

    width: int
    """In pixels."""

    latents: Tensor | None = None
    """Starting noise in place of the generators', shape (n, channels, rows, columns)."""

    negative_embeds: Tensor | None = None
    """CLIP image embeddings to guide away from, shape (n, d)."""

    prompt: Sequence[str] | None = None
    """Words for the decoder's own text encoder, if it has one."""

    negative_prompt: Sequence[str] | None = None
    """Words to guide away from."""

    image: Tensor | None = None
    """Pictures to start from, shape (n, 3, height, width), within [0, 1]."""

    strength: float = 0.8
    """How much of the starting picture is given up, from 0 to 1."""

    eta: float = 0.0
    """Noise that DDIM adds."""

    noise_level: int = 0
    """Noise that stable unCLIP adds to the embeddings, as a timestep of its own schedule."""

    @property
    def guided(self) -> bool:
        """Whether anything is guided away from."""
        return self.guidance_scale > 1

    def __len__(self) -> int:
        return len(self.embeds)


OnStep = Callable[[int, Tensor, Tensor], Tensor]
"""Called with the number of the step, its timestep and the latents; gives the latents to go on."""


class ImageDecoder(ABC):
    """Paints pictures from CLIP image embeddings, with the parts of the pipeline it belongs to.

    The loop is the same for all; a decoder says how its UNet is told the embedding, and how
    latents become pixels and back.

    Args:
        pipeline: Has `unet`, `vae`, `scheduler` and what else the decoder needs. They are looked up
            when they are used, so that one may be replaced.
    """

    kind: ClassVar[str]
    """The name that a pipeline's config has for it."""

    takes_words: ClassVar[bool] = False
    """Whether it has a text encoder of its own."""

    takes_negative_embeds: ClassVar[bool] = False
    """Whether it can be guided away from a CLIP image embedding."""

    def __init__(self, pipeline: Any):
        self.parts = pipeline

    @property
    def space(self) -> EmbeddingSpace | None:
        """The only space whose embeddings it understands; None if it isn't known."""
        space = self.parts.config["clip_space"]
        return EmbeddingSpace.from_dict(space) if space else None

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Values in an embedding."""

    @property
    def factor(self) -> int:
        """Pixels along each side that a latent stands for."""
        return vae_scale_factor(self.parts.vae)

    @property
    def multiple(self) -> int:
        """What height and width must be divisible by."""
        return self.factor

    @property
    def size(self) -> int:
        """Height and width in pixels that it was trained on."""
        return self.parts.unet.config["sample_size"] * self.factor

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Give the shape of one picture's latents."""
        channels = self.parts.unet.config["in_channels"]
        return channels, height // self.factor, width // self.factor

    @abstractmethod
    def condition(self, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Make the tensors that tell the UNet what to paint.

        Returns:
            Those of what is wanted and, if `request.guided`, those of what is guided away from;
            the first dimension of each is the picture.
        """

    @abstractmethod
    def unet_inputs(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Give the tensors of `condition` the names by which the UNet takes them."""

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode pictures.

        Args:
            pixels: Shape (n, 3, height, width), within [0, 1].

        Returns:
            Latents of unit scale, shape (n, channels, height / factor, width / factor).
        """
        vae = self.parts.vae
        posterior = vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).latent_dist
        return posterior.mode().float() * vae.config["scaling_factor"]

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents of unit scale into pictures.

        Args:
            latents: Shape (n, channels, rows, columns).

        Returns:
            Shape (n, 3, height, width), float32, within [0, 1]. Gradients flow back to where the
            values were cut off.
        """
        vae = self.parts.vae
        scaled = (latents / vae.config["scaling_factor"]).to(vae.dtype)
        return _unit_range(vae.decode(scaled, return_dict=False)[0])

    @torch.no_grad()
    def decode(self, request: Request, on_step: OnStep | None = None) -> Tensor:
        """Paint one batch, and give its latents.

        Noise comes from each picture's own generator, so that a seed gives the same picture
        whatever stands beside it in the batch; latents are float32 throughout.

        Args:
            request: What to paint.
            on_step: Called after every step.

        Returns:
            Latents of unit scale for `to_pixels`, shape (n, channels, rows, columns), float32.
        """
        parts, device = self.parts, self.parts._execution_device
        scheduler = parts.scheduler
        wanted, unwanted = self.condition(request)
        scheduler.set_timesteps(request.num_inference_steps, device=device)
        timesteps = scheduler.timesteps
        shape = self.latent_shape(request.height, request.width)
        noise = request.latents
        if noise is None:
            noise = draw_noise(shape, request.generators)
        noise = noise.to(device, torch.float32)
        if request.image is None:
            latents = noise * scheduler.init_noise_sigma
        else:
            timesteps = self._shortened(timesteps, request)
            latents = self.to_latents(request.image.to(device))
            if len(timesteps):
                latents = scheduler.add_noise(latents, noise, timesteps[:1].repeat(len(request)))
        options = step_options(scheduler, request.eta, request.generators)
        for index, timestep in enumerate(timesteps):
            predicted = self._predict(latents, timestep, wanted, unwanted, request.guidance_scale)
            latents = scheduler.step(predicted, timestep, latents, **options, return_dict=False)[0]
            if on_step is not None:
                latents = on_step(index, timestep, latents)
        return latents

    def count_steps(self, request: Request) -> int:
        """Give how often the UNet runs for one batch."""
        scheduler = self.parts.scheduler
        scheduler.set_timesteps(request.num_inference_steps)
        if request.image is None:
            return len(scheduler.timesteps)
        return len(self._shortened(scheduler.timesteps, request))

    def _shortened(self, timesteps: Tensor, request: Request) -> Tensor:
        """Leave out the steps that a starting picture makes needless, as diffusers does."""
        scheduler = self.parts.scheduler
        kept = min(int(request.num_inference_steps * request.strength), request.num_inference_steps)
        first = (request.num_inference_steps - kept) * getattr(scheduler, "order", 1)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return timesteps[first:]

    def _predict(
        self,
        latents: Tensor,
        timestep: Tensor,
        wanted: dict[str, Tensor],
        unwanted: dict[str, Tensor] | None,
        guidance_scale: float,
    ) -> Tensor:
        unet, scheduler = self.parts.unet, self.parts.scheduler
        scaled = scheduler.scale_model_input(latents, timestep).to(unet.dtype)
        tensors = wanted
        if unwanted is not None:
            scaled = torch.cat([scaled, scaled])
            tensors = {name: torch.cat([unwanted[name], wanted[name]]) for name in wanted}
        inputs = self.unet_inputs(
            {name: value.to(scaled.device, scaled.dtype) for name, value in tensors.items()}
        )
        output = unet(scaled, timestep, **inputs, return_dict=False)[0].float()
        # Some UNets predict how sure they are beside the noise.
        predicted, variance = output.split(
            [latents.shape[1], output.shape[1] - latents.shape[1]], dim=1
        )
        if unwanted is not None:
            away, towards = predicted.chunk(2)
            predicted = away + guidance_scale * (towards - away)
            variance = variance.chunk(2)[1]
        learned = scheduler.config.get("variance_type") in ("learned", "learned_range")
        return torch.cat([predicted, variance], dim=1) if learned else predicted


class DemoDecoder(ImageDecoder):
    """A UNet in an autoencoder's latent space that takes the embedding as class labels.

    It guides away from the pipeline's `negative_embedding`, which it learned in place of a
    condition.
    """

    kind = "demo"
    takes_negative_embeds = True

    @property
    def embed_dim(self) -> int:
        """Values in an embedding."""
        return self.parts.unet.config["projection_class_embeddings_input_dim"]

    def condition(self, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Make the tensors that tell the UNet what to paint."""
        wanted = {"vectors": request.embeds}
        return wanted, {"vectors": negatives_of(self.parts, request)} if request.guided else None

    def unet_inputs(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Give the tensors of `condition` the names by which the UNet takes them."""
        return {"encoder_hidden_states": None, "class_labels": tensors["vectors"]}


class KandinskyDecoder(ImageDecoder):
    """Kandinsky 2.2's decoder: a UNet that is told an image embedding alone, and MoVQ.

    See Razzhigaev et al. (2023), arXiv 2310.03502. It guides away from the embedding of a picture
    of zeros, which is the pipeline's `negative_embedding`.
    """

    kind = "kandinsky-2-2"
    takes_negative_embeds = True

    @property
    def embed_dim(self) -> int:
        """Values in an embedding."""
        return self.parts.unet.config["encoder_hid_dim"]

    @property
    def multiple(self) -> int:
        """What height and width must be divisible by."""
        return self.factor**2

    def condition(self, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Make the tensors that tell the UNet what to paint."""
        wanted = {"vectors": request.embeds}
        return wanted, {"vectors": negatives_of(self.parts, request)} if request.guided else None

    def unet_inputs(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Give the tensors of `condition` the names by which the UNet takes them."""
        added = {"image_embeds": tensors["vectors"]}
        return {"encoder_hidden_states": None, "added_cond_kwargs": added}

    def to_latents(self, pixels: Tensor) -> Tensor:
        """Encode pictures (n, 3, height, width) within [0, 1]; MoVQ's latents are not scaled."""
        vae = self.parts.vae
        return vae.encode((pixels * 2 - 1).to(vae.device, vae.dtype)).latents.float()

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Decode latents into pictures (n, 3, height, width) within [0, 1]."""
        vae = self.parts.vae
        # As Kandinsky does it: what the UNet made lies between the codebook's entries.
        decoded = vae.decode(latents.to(vae.dtype), force_not_quantize=True, return_dict=False)[0]
        return _unit_range(decoded)


class _ReadingDecoder(ImageDecoder):
    """A decoder whose UNet is also told words, by a text encoder of its own."""

    takes_words = True

    def _words(self, texts: Sequence[str] | None, count: int) -> Tensor:
        """Encode words, shape (n, tokens, d); no words are the empty text."""
        tokenizer, encoder = self.parts.tokenizer, self.parts.text_encoder
        asked = list(texts) if texts is not None else [""] * count
        different = list(dict.fromkeys(asked))
        tokens = tokenizer(
            different,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = self.parts._execution_device
        masked = getattr(encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if masked else None
        states = encoder(tokens.input_ids.to(device), attention_mask=mask)[0]
        return states[[different.index(text) for text in asked]]


class UnclipDecoder(_ReadingDecoder):
    """Stable unCLIP: Stable Diffusion 2.1 that is told an image embedding beside words.

    It was trained on embeddings with noise added, and is told how much (Ramesh et al. 2022, arXiv
    2204.06125). An item's generator makes that noise before the latents'.
    """

    kind = "stable-unclip"

    @property
    def embed_dim(self) -> int:
        """Values in an embedding; the UNet gets as many again for the level of noise."""
        return self.parts.unet.config["projection_class_embeddings_input_dim"] // 2

    def condition(self, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Make the tensors that tell the UNet what to paint."""
        wanted = {
            "vectors": self._noised(request),
            "words": self._words(request.prompt, len(request)),
        }
        if not request.guided:
            return wanted, None
        return wanted, {
            "vectors": torch.zeros_like(wanted["vectors"]),
            "words": self._words(request.negative_prompt, len(request)),
        }

    def unet_inputs(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Give the tensors of `condition` the names by which the UNet takes them."""
        return {"encoder_hidden_states": tensors["words"], "class_labels": tensors["vectors"]}

    def _noised(self, request: Request) -> Tensor:
        """Add noise to the embeddings and append its level, shape (n, 2 d)."""
        embeds = request.embeds.float().cpu()
        noise = draw_noise(embeds.shape[1:], request.generators)
        levels = torch.full((len(request),), request.noise_level)
        normalizer = self.parts.image_normalizer
        mean, std = (value.float().cpu() for value in (normalizer.mean, normalizer.std))
        scheduler = self.parts.image_noising_scheduler
        noised = scheduler.add_noise((embeds - mean) / std, noise, levels) * std + mean
        told = get_timestep_embedding(
            levels, embeds.shape[1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([noised, told], dim=1)


class IPAdapterDecoder(_ReadingDecoder):
    """Stable Diffusion with an IP-Adapter, by which its UNet attends to an image embedding.

    See Ye et al. (2023), arXiv 2308.06721.
    """

    kind = "ip-adapter"

    @property
    def embed_dim(self) -> int:
        """Values in an embedding."""
        return self.parts.ip_adapter.embed_dim

    def condition(self, request: Request) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Make the tensors that tell the UNet what to paint."""
        wanted = {
            "vectors": request.embeds,
            "words": self._words(request.prompt, len(request)),
        }
        if not request.guided:
            return wanted, None
        return wanted, {
            "vectors": torch.zeros_like(request.embeds),
            "words": self._words(request.negative_prompt, len(request)),
        }

    def unet_inputs(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Give the tensors of `condition` the names by which the UNet takes them."""
        added = {"image_embeds": [tensors["vectors"].unsqueeze(1)]}
        return {"encoder_hidden_states": tensors["words"], "added_cond_kwargs": added}


def negatives_of(pipeline: Any, request: Request) -> Tensor:
    """Give the embeddings to guide away from: those asked for, else learned ones, else zeros."""
    if request.negative_embeds is not None:
        return request.negative_embeds
    if pipeline.negative_embedding is not None:
        return pipeline.negative_embedding(len(request)).to(request.embeds)
    return torch.zeros_like(request.embeds)


def decoder_of(pipeline: Any, kind: str) -> ImageDecoder:
    """Make the decoder of a kind with a pipeline's parts.

    Raises:
        UserError: If there is no such kind.
    """
    if kind not in _DECODERS:
        raise UserError(f"Expected decoder to be one of {', '.join(_DECODERS)}, got {kind!r}.")
    return _DECODERS[kind](pipeline)


def _unit_range(pixels: Tensor) -> Tensor:
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


_DECODERS: dict[str, type[ImageDecoder]] = {
    decoder.kind: decoder
    for decoder in (DemoDecoder, KandinskyDecoder, UnclipDecoder, IPAdapterDecoder)
}
