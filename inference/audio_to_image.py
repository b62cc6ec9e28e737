"""Audio-to-image pipeline: CLAP, a translator, then a decoder of CLIP image embeddings."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from diffusers.loaders import IPAdapterMixin
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.hub import quiet
from clip2clap.core.math import unit_norm
from clip2clap.inference.base import TranslatorPipeline
from clip2clap.inference.call_checks import check_decoder_call
from clip2clap.inference.compatibility import PathOrId
from clip2clap.inference.decoders import create_decoder
from clip2clap.inference.denoising import Request
from clip2clap.inference.generator_clap import encode_cached
from clip2clap.inference.inputs import AudioSource, ImageSource, embeds_on_cpu, read_images
from clip2clap.inference.mixing import mix_embeds
from clip2clap.inference.noise import spread_generators
from clip2clap.inference.outputs import AudioToImageOutput
from clip2clap.inference.painting.paint import default_cut_size
from clip2clap.inference.similarity_guidance import (
    GuidanceOptions,
    SimilarityGuidance,
    can_guide,
)
from clip2clap.media.images import to_images, to_pixels
from clip2clap.metrics.classification import IMAGE_PROMPT
from clip2clap.models.autoencoders import Autoencoder

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import CLIPTextModel, CLIPTokenizer

    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.loading.ip_adapter import IPAdapterWeights
    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
    from clip2clap.models.retrieval_memory import RetrievalMemory
    from clip2clap.translator.base import Translator

_DEFAULT_PROMPT_WEIGHT = 0.3
# Cutouts of an image that is guided to its own embedding, one gradient step per denoising step.
_CUTOUTS = 4
# An embedding whose norm differs from 1 by less was scaled to unit norm.
_UNIT_TOLERANCE = 1e-3


class AudioToImagePipeline(TranslatorPipeline, IPAdapterMixin):
    """Audio-to-image diffusion pipeline conditioned on translated CLAP embeddings.

    A translator maps the audio's CLAP embedding into the CLIP space of a decoder, where it replaces
    an image embedding. A seed gives the same image in any batch: see `clip2clap.inference.noise`.

    Args:
        clap: CLAP audio encoder; None for a pipeline conditioned on CLIP embeddings only.
        translator: Map from the CLAP's space to the decoder's CLIP space; None like `clap`.
        clip: The decoder's own CLIP, to encode text and to rank images; None to do without.
        unet: UNet conditioned on a CLIP image embedding.
        vae: Autoencoder of images.
        scheduler: Any diffusers scheduler that fits the UNet; see `few_step_scheduler`.
        negative_embedding: Embedding to guide away from, learned by the decoder.
        retrieval_memory: Pulls conditions towards training embeddings; images are still ranked by
            the embeddings as they were.
        text_encoder: Text encoder of the UNet, if it is conditioned on text.
        tokenizer: Tokenizer of the text encoder.
        image_normalizer: Mean and standard deviation of stable unCLIP's embeddings.
        image_noising_scheduler: Schedule of the noise that stable unCLIP adds to embeddings.
        ip_adapter: Weights by which Stable Diffusion's UNet attends to an embedding; they are
            loaded into the UNet here.
        decoder_kind: Name of the `ImageDecoder`, see `create_decoder`.
        clip_space: Space of the embeddings that the decoder was trained on, as from
            `EmbeddingSpace.to_dict()`; None if unknown.
        clap_id: Preset, hub id or folder of the CLAP, if it is not saved with the pipeline.
        clip_id: The same of the CLIP.
        embed_norm: L2 norm of the embeddings that the decoder was trained on, to which embeddings
            of unit norm are scaled.
        default_guidance_scale: Default of `guidance_scale`.
        default_clip_guidance_scale: Default of `clip_guidance_scale`.
        default_refine_strength: Default of `refine_strength`.
        default_size: Default of `height` and `width`; None for the size that was trained on.
        default_num_inference_steps: Default of `num_inference_steps`.

    Raises:
        SpaceMismatchError: If two components are of different encoders.
        UserError: If the components' sizes do not match.

    Examples:
        >>> from clip2clap import AudioToImagePipeline
        >>> pipe = AudioToImagePipeline.from_pretrained("demo")
        >>> pipe("bark.wav", num_inference_steps=2).images[0].size
        (128, 128)
    """

    model_cpu_offload_seq = "clap->translator->clip->text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["image_normalizer"]  # noqa: RUF012
    _optional_components = [  # noqa: RUF012 (the name and type are diffusers')
        "clap",
        "translator",
        "clip",
        "negative_embedding",
        "retrieval_memory",
        "text_encoder",
        "tokenizer",
        "image_normalizer",
        "image_noising_scheduler",
        "ip_adapter",
    ]
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    preset_kind = "decoder"
    usage = '"bark.wav"'
    space_setting = "clip_space"
    encoder_parts = ("clap", "translator", "clip", "ip_adapter")
    label_template = IMAGE_PROMPT
    space_pairs = (
        ("translator source", "clap", "The translator's source is not the pipeline's CLAP"),
        ("generator", "translator target", "The translator's target is not the decoder's CLIP"),
        ("generator", "clip", "The pipeline's CLIP is not the decoder's"),
        ("translator target", "clip", "The translator's target is not the pipeline's CLIP"),
    )

    clap: "ClapEncoder | None"
    ip_adapter: "IPAdapterWeights | None"

    def __init__(
        self,
        clap: "ClapEncoder | None",
        translator: "Translator | None",
        clip: "ClipEncoder | None",
        unet: "UNet2DConditionModel",
        vae: Autoencoder,
        scheduler: "SchedulerMixin",
        negative_embedding: "LearnedNegativeEmbedding | None" = None,
        retrieval_memory: "RetrievalMemory | None" = None,
        text_encoder: "CLIPTextModel | None" = None,
        tokenizer: "CLIPTokenizer | None" = None,
        image_normalizer: Any = None,
        image_noising_scheduler: "SchedulerMixin | None" = None,
        ip_adapter: "IPAdapterWeights | None" = None,
        decoder_kind: str = "demo",
        clip_space: dict[str, Any] | None = None,
        clap_id: str | None = None,
        clip_id: str | None = None,
        embed_norm: float = 1.0,
        default_guidance_scale: float = 3.0,
        default_clip_guidance_scale: float = 0.0,
        default_refine_strength: float = 0.0,
        default_size: int | None = None,
        default_num_inference_steps: int = 20,
    ) -> None:
        super().__init__()
        self._register(locals())
        self.diffusion = self.decoder = create_decoder(self, decoder_kind)
        self._text_embeds: dict[str, dict[str, Tensor]] = {}
        self._check_components("The decoder", "its CLIP has")
        self._apply_ip_adapter()

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: PathOrId, **kwargs: Any
    ) -> None:
        """Save all components into a folder, as `DiffusionPipeline.save_pretrained` does.

        An IP-Adapter is saved beside the UNet that it was loaded into.
        """
        if self.ip_adapter is not None:
            self.unload_ip_adapter()
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self._apply_ip_adapter()

    @property
    def embed_norm(self) -> float:
        """L2 norm of the embeddings that the decoder was trained on."""
        return self.config["embed_norm"]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into the decoder's CLIP space, shape (n, d), float32, unit norm.

        Embeddings are cached.

        Raises:
            UserError: If the pipeline has no CLIP with a text encoder.
        """
        if self.clip is None or "text" not in self.clip.modalities:
            raise UserError(
                "Text needs the decoder's own CLIP with its text encoder, and this pipeline has "
                "none: load it with clip=..."
            )
        model = self.clip.space("text").fingerprint
        return encode_cached(self._text_embeds.setdefault(model, {}), texts, self.clip.encode_text)

    @torch.no_grad()
    def __call__(
        self,
        audios: AudioSource | Sequence[AudioSource] | None = None,
        *,
        audio_start_in_s: float = 0.0,
        audio_length_in_s: float | None = None,
        audio_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        weights: Sequence[float] | None = None,
        prompt: str | Sequence[str] | None = None,
        prompt_weight: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_image_embeds: Tensor | None = None,
        image: ImageSource | Sequence[ImageSource] | None = None,
        strength: float = 0.8,
        refine_strength: float | None = None,
        noise_level: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        clip_guidance_scale: float | None = None,
        guidance: SimilarityGuidance | None = None,
        num_candidates: int = 1,
        cache_interval: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | int | Sequence[torch.Generator | int] | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unknown: Any,
    ) -> AudioToImageOutput:
        """Generate images for each audio source or embedding; all candidates are returned.

        Args:
            audios: Files, bytes, or pairs of a mono waveform and its sampling rate, one or many.
                Give exactly one of `audios`, `audio_embeds` and `image_embeds`.
            audio_start_in_s: Start of the excerpt to encode, in seconds.
            audio_length_in_s: Length of the excerpt, in seconds; None for all.
            audio_embeds: CLAP embeddings to translate, shape (n, d).
            image_embeds: CLIP embeddings, shape (n, d); those of unit norm get `embed_norm`.
            weights: Weights by which all sources are mixed into one item, in CLIP space.
            prompt: Texts beside the audio, one for all items or one for each.
            prompt_weight: Weight of the prompt in the embedding, from 0 to 1; by default 0 for a
                decoder with a text encoder, which gets the prompt, and 0.3 for others.
            negative_prompt: Texts to guide away from, for a decoder with a text encoder.
            negative_image_embeds: CLIP embeddings to guide away from, for the other decoders.
            image: Images to start from, one for all items or one for each; cropped to the size.
            strength: Fraction of `image` to replace, from 0 to 1.
            refine_strength: The same of images generated at the training size and enlarged.
            noise_level: Noise that stable unCLIP adds to the embedding, as a timestep.
            height: Height in pixels; by default, as the width, the decoder's.
            width: Width in pixels.
            num_inference_steps: Number of denoising steps.
            guidance_scale: Strength of classifier-free guidance; disabled at 1 and below.
            clip_guidance_scale: Strength of guidance to the own embedding by CLIP; 0 is off.
            guidance: Targets that the sampler is guided to by their similarity, in place of it.
            num_candidates: Images per item.
            cache_interval: Number of steps from one update of the UNet's deep features to the next,
                as in DeepCache (arXiv 2312.00858); 1 reuses none.
            eta: Noise that DDIM adds, from 0 to 1.
            generator: One generator or seed, or one for each item; see `clip2clap.inference.noise`.
            latents: Starting noise, shape (n * num_candidates, channels, rows, columns).
            batch_size: Number of images generated at once; 8 by default.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict: Whether to return an `AudioToImageOutput` or a tuple.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after
                every step of every batch; may return tensors to replace.
            callback_on_step_end_tensor_inputs: Names of the callback's tensors: `latents`.
            **unknown: Refused, with what to use instead.

        Raises:
            UserError: If an argument is invalid, or a source is unreadable (it is named).
        """
        call = self._prepare_call(locals())
        call.height, call.width = (
            self.decoder.size if side is None else side for side in (height, width)
        )
        count = check_decoder_call(self, call)
        start = self._start(call)
        call.guidance = self._guidance(call, is_asked=clip_guidance_scale is not None)
        embeds = self._condition(call)
        decode = Tensor.cpu if output_type == "latent" else self.decoder.to_pixels
        pixels = self._generate(self._request(call, embeds, start, count), decode)
        images, similarities = self._convert(pixels, embeds, output_type)
        output = AudioToImageOutput(images, unit_norm(embeds), similarities)
        return self._finish(output, call)

    def _start(self, call: Any) -> Tensor | None:
        """Return the images to start from, and set the share of the denoising that is left."""
        if call.image is not None:
            call.start_strength = call.strength
            return to_pixels(read_images(call.image), call.height, call.width)
        is_larger = min(call.height, call.width) > self.decoder.trained_size
        if call.refine_strength and is_larger and call.latents is None:
            # Half a step more than one at least, as the number of steps is rounded down.
            call.start_strength = max(call.refine_strength, 1.5 / call.num_inference_steps)
        return None

    def _guidance(self, call: Any, *, is_asked: bool) -> SimilarityGuidance | None:
        """Return the guidance of a call, by default that of each image to its own embedding."""
        scale = call.clip_guidance_scale
        if call.guidance is not None or not scale:
            return call.guidance
        if not is_asked and (self.clip is None or not can_guide(self.scheduler)):
            return None
        if self.clip is None:
            raise UserError(
                "Guidance by CLIP needs the decoder's own CLIP, and this pipeline has none: load "
                "it with clip=..., or give clip_guidance_scale=0.",
                param="clip_guidance_scale",
            )
        size = default_cut_size(self.clip)
        options = GuidanceOptions(scale, iterations=1, cutouts=_CUTOUTS, cut_size=size)
        return SimilarityGuidance(self.clip, options=options)

    def _apply_ip_adapter(self) -> None:
        if self.ip_adapter is not None:
            with quiet():
                parts: Any = self.ip_adapter.by_part()
                self.load_ip_adapter(parts, subfolder="", weight_name="")

    def _condition(self, call: Any) -> Tensor:
        """Compute the CLIP embedding of each item, shape (n, d), float32, on the CPU."""
        embeds = call.image_embeds
        if embeds is None:
            audio_embeds = call.audio_embeds
            if call.audios is not None:
                start, length = call.audio_start_in_s, call.audio_length_in_s
                audio_embeds = self.encode_audio(call.audios, start_in_s=start, length_in_s=length)
            embeds = self.translate(torch.atleast_2d(audio_embeds))
        embeds = embeds_on_cpu(embeds)
        if call.weights is not None:
            embeds = mix_embeds(unit_norm(embeds), call.weights).unsqueeze(0)
        weight = call.prompt_weight
        if weight is None:
            weight = 0.0 if self.decoder.has_text_encoder else _DEFAULT_PROMPT_WEIGHT
        if call.prompt is None or not weight:
            return embeds
        text_embeds = self.encode_text(call.prompt).expand(len(embeds), -1)
        return mix_embeds([unit_norm(embeds), text_embeds], [1 - weight, weight])

    def _scale(self, embeds: Tensor) -> Tensor:
        """Return the decoder's conditions: retrieved, and at the norm it was trained on."""
        embeds = self.retrieve(embeds)
        norms = embeds.norm(dim=-1, keepdim=True)
        return torch.where((norms - 1).abs() < _UNIT_TOLERANCE, embeds * self.embed_norm, embeds)

    def _request(self, call: Any, embeds: Tensor, start: Tensor | None, count: int) -> Request:
        """Return the request for all candidates, an item's side by side."""
        rows = torch.arange(count).repeat_interleave(call.num_candidates)
        negatives = call.negative_image_embeds
        if negatives is not None:
            negatives = self._scale(embeds_on_cpu(negatives)).expand(count, -1)[rows]

        def repeat(texts: list[str] | None) -> list[str] | None:
            return texts and [texts[row if len(texts) > 1 else 0] for row in rows.tolist()]

        return Request(
            call,
            self.decoder.latent_shape(call.height, call.width),
            self._scale(embeds)[rows],
            unit_norm(embeds)[rows],
            spread_generators(call.generator, count, call.num_candidates),
            latents=call.latents,
            negative_embeds=negatives,
            prompt=repeat(call.prompt),
            negative_prompt=repeat(call.negative_prompt),
            image=None if start is None else start.expand(count, -1, -1, -1)[rows],
        )

    def _convert(
        self, pixels: Tensor, embeds: Tensor, output_type: str
    ) -> tuple[Any, Tensor | None]:
        """Return the images in the form that is wanted, and their similarities."""
        if output_type == "latent":
            return pixels, None
        images, similarities = to_images(pixels), None
        if self.clip is not None and "image" in self.clip.modalities:
            similarities = self.rank(images, embeds)[1]
        if output_type == "pt":
            return pixels, similarities
        return images if output_type == "pil" else pixels.permute(0, 2, 3, 1).numpy(), similarities

    def _audio_encoder(self) -> "ClapEncoder":
        if self.clap is None:
            raise UserError(
                "Encoding audio needs a CLAP, and this pipeline has none: load it with clap=..., "
                "or give audio_embeds or image_embeds."
            )
        return self.clap

    def _encode_outputs(self, outputs: Sequence[Image.Image]) -> Tensor:
        if self.clip is None:
            raise UserError("Ranking images needs the decoder's CLIP: load it with clip=...")
        return cast(Tensor, self.clip.encode_image(list(outputs)))
