"""Image-to-audio pipeline: CLIP, a translator, then the UNet, VAE and vocoder of AudioLDM."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clip2clap.core.errors import UserError, expect, is_number
from clip2clap.inference.audio_guidance import AudioSimilarityGuidance
from clip2clap.inference.base import TranslatorPipeline
from clip2clap.inference.call_checks import check_generator_call
from clip2clap.inference.compatibility import PathOrId
from clip2clap.inference.denoising import LatentDiffusion, Request, Tensors, running
from clip2clap.inference.generator_clap import GeneratorClap
from clip2clap.inference.inputs import ImageSource, Negative, embeds_on_cpu
from clip2clap.inference.noise import second_generators, spread_generators
from clip2clap.inference.outputs import ImageToAudioOutput
from clip2clap.metrics.classification import AUDIO_PROMPT
from clip2clap.models.autoencoders import Autoencoder, decode, vae_scale_factor
from clip2clap.models.hifigan import ChannelsLast1d

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import SpeechT5HifiGan

    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.models.class_filters import ClassFilters
    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
    from clip2clap.models.retrieval_memory import RetrievalMemory
    from clip2clap.models.spectral_vocoder import SpectralVocoder
    from clip2clap.translator.base import Translator

# Share of a window of the CLAP that ranks below which the end of a waveform is left out.
_SMALL_REMAINDER = 0.05
# Beyond it the sizes of tensors overflow.
_MAX_SAMPLES = 2**48
logger = logging.getLogger(__name__)


class ImageToAudioPipeline(TranslatorPipeline):
    """Image-to-audio latent diffusion pipeline conditioned on translated CLIP embeddings.

    A translator maps the image's CLIP embedding into the CLAP space of a text-to-audio generator,
    where it replaces the text encoder's output (AudioLDM, Liu et al. 2023, arXiv 2301.12503;
    MusicLDM, Chen et al. 2023, arXiv 2308.01546). The text encoder is not a component: it is loaded
    for a text prompt, used, and freed.

    A seed gives the same audio in any batch: see `clip2clap.inference.noise`. A translator that
    samples (`PriorTranslator`) draws one embedding per candidate, with generators of their own.

    Args:
        clip: CLIP image encoder; None for a pipeline conditioned on embeddings and text only.
        translator: Map from the CLIP's space to the generator's CLAP space; None like `clip`.
        unet: UNet conditioned on a CLAP embedding as class labels.
        vae: Autoencoder of log-mel spectrograms.
        vocoder: Vocoder from log-mel spectrograms to waveforms.
        scheduler: Any diffusers scheduler that fits the UNet; see `few_step_scheduler`.
        negative_embedding: Embedding to guide away from, learned by the generator.
        retrieval_memory: Pulls conditions towards training embeddings; candidates are still
            ranked by the embeddings as they were.
        class_filters: Fine texture of classes that are noises.
        ranker: CLAP with an audio encoder, to rank candidates.
        ranker_translator: Map from the CLIP's space to the ranker's, if it is not the generator's.
        clap_id: Preset, hub id or folder of the generator's own CLAP, for text prompts.
        clap_space: Space of that CLAP, as from `EmbeddingSpace.to_dict()`.
        clap_revision: Revision of `clap_id` on the hub.
        default_guidance_scale: Default of `guidance_scale`.
        default_guidance_interval: Default of `guidance_interval`.
        default_num_inference_steps: Default of `num_inference_steps`.
        default_num_candidates: Default of `num_candidates`.

    Raises:
        SpaceMismatchError: If two components are of different encoders.
        UserError: If the components' sizes do not match.

    Examples:
        >>> from clip2clap import ImageToAudioPipeline
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> audio = pipe("dog.jpg", num_inference_steps=2).audios[0]
        >>> pipe.nearest_labels(pipe.translate(pipe.encode_image("dog.jpg")), ["dog", "rain"])
        [[(...)]]
    """

    model_cpu_offload_seq = "clip->translator->unet->vae->vocoder"
    _optional_components = [  # noqa: RUF012 (the name and type are diffusers')
        "clip",
        "translator",
        "negative_embedding",
        "retrieval_memory",
        "class_filters",
        "ranker",
        "ranker_translator",
    ]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012
    preset_kind = "generator"
    usage = '"dog.jpg"'
    space_setting = "clap_space"
    encoder_parts = ("clip", "translator", "ranker", "ranker_translator")
    encoder_modalities = {"clip": ("image",)}  # noqa: RUF012
    label_template = AUDIO_PROMPT
    space_pairs = (
        ("translator source", "clip", "The translator's source is not the pipeline's CLIP"),
        ("translator target", "generator", "The translator's target is not the generator's CLAP"),
        (
            "ranker_translator source",
            "clip",
            "The ranker_translator's source is not the pipeline's CLIP",
        ),
        ("ranker_translator target", "ranker", "The ranker_translator's target is not the ranker"),
    )

    vocoder: Any
    ranker: "ClapEncoder | None"
    ranker_translator: "Translator | None"

    def __init__(
        self,
        clip: "ClipEncoder | None",
        translator: "Translator | None",
        unet: "UNet2DConditionModel",
        vae: Autoencoder,
        vocoder: "SpeechT5HifiGan | SpectralVocoder",
        scheduler: "SchedulerMixin",
        negative_embedding: "LearnedNegativeEmbedding | None" = None,
        retrieval_memory: "RetrievalMemory | None" = None,
        class_filters: "ClassFilters | None" = None,
        ranker: "ClapEncoder | None" = None,
        ranker_translator: "Translator | None" = None,
        clap_id: str | None = None,
        clap_space: dict[str, Any] | None = None,
        clap_revision: str | None = None,
        default_guidance_scale: float = 2.5,
        default_guidance_interval: tuple[float, float] = (0.0, 0.5),
        default_num_inference_steps: int = 8,
        default_num_candidates: int = 1,
    ) -> None:
        super().__init__()
        self._register(locals())
        self.vae_scale_factor = vae_scale_factor(vae)
        self.generator_clap = GeneratorClap(self)
        self.diffusion = _AudioDiffusion(self)
        if unet.config["class_embed_type"] != "simple_projection":
            raise UserError(
                "The UNet accepts no CLAP embedding as class labels (class_embed_type is "
                f"{unet.config['class_embed_type']!r}, expected 'simple_projection'): it is not "
                "the UNet of AudioLDM 1 or MusicLDM."
            )
        self._check_components("The UNet", "the generator's CLAP has")
        if vocoder.config.model_in_dim % self.vae_scale_factor:
            raise UserError(
                f"The vocoder's {vocoder.config.model_in_dim} frequency bins are not divisible by "
                f"the VAE's scale factor {self.vae_scale_factor}."
            )

    @classmethod
    def from_audioldm(
        cls,
        pretrained_model_name_or_path: PathOrId,
        *,
        fetch_text_encoder: bool = True,
        **options: Any,
    ) -> "ImageToAudioPipeline":
        """Load the generator of an AudioLDM (first version) or MusicLDM checkpoint.

        The checkpoint's text encoder is no component: its fingerprint shows whether the translator
        was trained for this generator, and the embedding of the empty prompt, which these
        generators were trained to guide away from, is kept as `negative_embedding`.

        Args:
            pretrained_model_name_or_path: Preset, hub id or folder.
            fetch_text_encoder: Whether to download the text encoder (some 500 MB) if it is not on
                disk. Without it the translator's generator is checked by name only, and guidance
                steers away from the zero vector, which was not in training.
            **options: As in `from_pretrained`.

        Raises:
            SpaceMismatchError: If the translator was trained for another CLIP or another CLAP.
            CheckpointError: As in `from_pretrained`.
        """
        options |= {"fetch_text_encoder": fetch_text_encoder, "published_only": True}
        return cls.from_pretrained(pretrained_model_name_or_path, **options)

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the generated audio, in Hz."""
        return self.vocoder.config.sampling_rate

    @property
    def default_audio_length_in_s(self) -> float:
        """Length that the UNet was trained on, in seconds."""
        frames = self.unet.config["sample_size"] * self.vae_scale_factor
        return frames * self._hop_length / self.sampling_rate

    @property
    def makes_drafts(self) -> bool:
        """True if the vocoder makes drafts, which candidates are ranked by."""
        return hasattr(self.vocoder, "draft_iterations")

    @property
    def _hop_length(self) -> int:
        return math.prod(self.vocoder.config.upsample_rates)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into the generator's CLAP space, as `GeneratorClap.encode_text` does."""
        return self.generator_clap.encode_text(texts)

    @torch.no_grad()
    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        audio_length_in_s: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance: AudioSimilarityGuidance | None = None,
        negative: Negative = "auto",
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        num_candidates: int | None = None,
        num_variations: int = 1,
        draft_candidates: bool | None = None,
        cache_interval: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | int | Sequence[torch.Generator | int] | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: Literal["np", "pt"] = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **unknown: Any,
    ) -> ImageToAudioOutput:
        """Generate audio for each image, prompt or embedding.

        Args:
            images: Files, http(s) URLs, bytes or PIL images, one or many. Give exactly one of
                `images`, `prompt` and `prompt_embeds`.
            prompt: Texts in place of images.
            prompt_embeds: CLAP embeddings of the generator's space, shape (n, d) or (d,).
            audio_length_in_s: Length in seconds; by default the UNet's training length.
            num_inference_steps: Number of denoising steps.
            guidance_scale: Strength of classifier-free guidance; disabled at 1 and below.
            guidance_interval: Fractions of the steps between which guidance is on; the UNet runs
                on half the batch for the rest (Kynkäänniemi et al. 2024, arXiv 2404.07724).
            guidance: Targets that the sampler is guided to by their similarity.
            negative: What to guide away from: `"learned"`, the pipeline's `negative_embedding`;
                `"prompt"`, the empty prompt; `"zero"`; or `"auto"`, the first of them on disk.
            negative_prompt: Texts to guide away from, one for all items or one for each.
            negative_prompt_embeds: Embeddings to guide away from, shape (n, d), (1, d) or (d,).
            num_candidates: Candidates per item, of which the one most similar to the embedding
                by a CLAP audio encoder is kept; by default 1 with `latents`.
            num_variations: Candidates to keep per item, the most similar first.
            draft_candidates: Rank quick drafts of a `SpectralVocoder`, and vocode in full only the
                candidates that are kept; without effect where all are. Similarities are then those
                of the drafts. By default, where the vocoder is one.
            cache_interval: Number of steps from one update of the UNet's deep features to the next,
                as in DeepCache (arXiv 2312.00858); 1 reuses none.
            eta: Noise that DDIM adds, from 0 to 1 (arXiv 2010.02502).
            generator: One generator or seed, or one for each item; see `clip2clap.inference.noise`.
            latents: Starting noise, shape (n * num_candidates, channels, time, frequency).
            batch_size: Number of candidates generated at once; 8 by default.
            output_type: `"np"` for an array, `"pt"` for a tensor.
            return_dict: Whether to return an `ImageToAudioOutput` or a tuple.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after
                every step of every batch; may return tensors to replace.
            callback_on_step_end_tensor_inputs: Names of its tensors: `latents`, `prompt_embeds`...
            **unknown: Refused, with what to use instead.

        Raises:
            UserError: If an argument is invalid or an image unreadable (it is named).
        """
        call = self._prepare_call(locals())
        count = check_generator_call(self, call)
        samples = self.count_samples(call.audio_length_in_s)
        embeds, targets, request = self._condition(call, count, samples)
        drafting = call.draft_candidates and call.num_variations < call.num_candidates
        decoded = self._generate(request, self._decode_mels if drafting else self._decode)
        similarities = None
        if targets is not None:
            audio = self._vocode_all(decoded, call.batch_size, draft=True) if drafting else decoded
            _, similarities = self.rank(audio[:, :samples], targets)
            best = similarities.argsort(dim=1, descending=True, stable=True)
            firsts = torch.arange(0, len(embeds), call.num_candidates).unsqueeze(1)
            chosen = (firsts + best[:, : call.num_variations]).flatten()
            decoded, embeds = decoded[chosen], embeds[chosen]
        audio = self._vocode_all(decoded, call.batch_size) if drafting else decoded
        audio = audio[:, :samples]
        output = ImageToAudioOutput(
            audios=audio.numpy() if output_type == "np" else audio,
            sampling_rate=self.sampling_rate,
            audio_embeds=embeds,
            similarities=similarities,
        )
        return self._finish(output, call)

    def count_samples(self, seconds: float | None) -> int:
        """Return the number of samples of a length, which is checked."""
        seconds = self.default_audio_length_in_s if seconds is None else seconds
        shortest = self.vae_scale_factor * self._hop_length / self.sampling_rate
        holds = is_number(seconds) and seconds >= shortest
        expect(holds, "audio_length_in_s", f"at least {shortest:g} seconds", seconds)
        longest = _MAX_SAMPLES / self.sampling_rate
        expect(seconds <= longest, "audio_length_in_s", f"at most {longest:g} seconds", seconds)
        return round(seconds * self.sampling_rate)

    def latent_shape(self, samples: int) -> tuple[int, int, int]:
        """Return the shape of one item's latents: (channels, time, frequency)."""
        factor, channels = self.vae_scale_factor, self.unet.config["in_channels"]
        frames = math.ceil(samples / self._hop_length)
        return channels, math.ceil(frames / factor), self.vocoder.config.model_in_dim // factor

    def _condition(
        self, call: Any, count: int, samples: int
    ) -> tuple[Tensor, Tensor | None, Request]:
        """Compute embeddings (n * k, d), targets to rank by (n, d), and the request for all."""
        candidates, guided = call.num_candidates, call.guidance_scale > 1.0
        # All texts at once, so that the text encoder is loaded once, and before the images.
        unwanted = self._negative_texts(call) if guided else None
        texts = [*(call.prompt or []), *(unwanted or [])]
        if texts:
            self.encode_text(texts)
        image_embeds = None
        if call.images is not None:
            image_embeds = embeds = self.encode_image(call.images)
        elif call.prompt is not None:
            embeds = self.encode_text(call.prompt)
        else:
            embeds = embeds_on_cpu(call.prompt_embeds)
        generators = spread_generators(call.generator, count, candidates)
        embeds = embeds.repeat_interleave(candidates, dim=0)
        if image_embeds is not None:
            embeds = self.translate(embeds, generator=second_generators(generators))
        targets = negatives = None
        if candidates > 1:
            means = embeds.view(count, candidates, -1).mean(1)
            targets = self._ranking_targets(means, image_embeds, call.prompt)
        if guided:
            negatives = self._negative_embeds(call, unwanted).expand(count, -1)
            negatives = negatives.repeat_interleave(candidates, dim=0)
        request = Request(
            call,
            self.latent_shape(samples),
            self.retrieve(embeds),
            embeds,
            generators,
            latents=call.latents,
            negative_embeds=negatives,
        )
        return embeds, targets, request

    def _negative_texts(self, call: Any) -> list[str] | None:
        """Return the texts to guide away from; None where no text has to be encoded."""
        if call.negative_prompt is not None or call.negative_prompt_embeds is not None:
            return call.negative_prompt
        has_none = call.negative == "auto" and self.negative_embedding is None
        if call.negative == "prompt" or (has_none and self.generator_clap.is_local):
            return [""]
        return None

    def _negative_embeds(self, call: Any, texts: list[str] | None) -> Tensor:
        """Return the embeddings to guide away from, shape (n or 1, d), float32, on the CPU."""
        if texts is not None:
            return self.retrieve(self.encode_text(texts))
        if call.negative_prompt_embeds is not None:
            return self.retrieve(embeds_on_cpu(call.negative_prompt_embeds))
        if self.negative_embedding is not None and call.negative != "zero":
            return self.negative_embedding(1).to("cpu", torch.float32)
        if call.negative == "auto":
            logger.info(
                "Guiding away from the zero vector: the pipeline has no negative_embedding, "
                "and its generator's text encoder is not on disk."
            )
        return torch.zeros(1, self.embed_dim, dtype=torch.float32)

    def _decode(self, latents: Tensor) -> Tensor:
        """Decode latents to waveforms, shape (n, samples), float32, on the CPU."""
        return self._vocode(self._decode_mels(latents))

    def _decode_mels(self, latents: Tensor) -> Tensor:
        """Decode latents to log-mel spectrograms, shape (n, time, bins)."""
        return decode(self.vae, latents / self.vae.config["scaling_factor"]).squeeze(1)

    def _vocode_all(self, mels: Tensor, batch_size: int, *, draft: bool = False) -> Tensor:
        parts = mels.to(self._execution_device).split(batch_size)
        with running("vocoder"):
            return torch.cat([self._vocode(part, draft=draft) for part in parts])

    def _vocode(self, mels: Tensor, *, draft: bool = False) -> Tensor:
        """Convert log-mel spectrograms to waveforms, float32, on the CPU."""
        mels = mels.to(self.vocoder.dtype)
        options = {"iterations": self.vocoder.draft_iterations} if draft else {}
        with ChannelsLast1d():
            waveforms = self.vocoder(mels, **options).to("cpu", torch.float32)
        # An unbounded vocoder may exceed full scale, where a file's samples would be clipped.
        return waveforms / waveforms.abs().amax(1, keepdim=True).clamp(min=1.0)

    def _ranking_targets(
        self, embeds: Tensor, image_embeds: Tensor | None, prompt: list[str] | None
    ) -> Tensor:
        """Return the items' embeddings in the space of the CLAP that ranks, shape (n, d)."""
        if self.ranker is None or self.generator_clap.is_model_of(self.ranker):
            return embeds
        if image_embeds is not None:
            return self._translate(image_embeds, self.ranker_translator)
        assert prompt is not None
        return self.ranker.encode_text(prompt)

    def _audio_encoder(self) -> "ClapEncoder":
        return self.ranker or self.generator_clap.load_audio_encoder().to(self._execution_device)

    def _encode_outputs(self, outputs: NDArray[np.float32] | Tensor) -> Tensor:
        encoder, rate = self._audio_encoder(), self.sampling_rate
        window = encoder.backend.window / encoder.backend.sampling_rate * rate
        # A second window for a remainder of a few hundredths would double the time.
        length = np.shape(outputs)[-1]
        windows, rest = divmod(length, window)
        if windows and rest < _SMALL_REMAINDER * window:
            length = math.floor(windows * window)
        waveforms = [(np.asarray(waveform)[:length], rate) for waveform in outputs]
        return encoder.encode_audio(waveforms)


class _AudioDiffusion(LatentDiffusion):
    """Latent diffusion of AudioLDM, conditioned on a CLAP embedding as class labels."""

    def condition(self, request: Request) -> tuple[Tensors, Tensors | None]:
        """Compute the conditional and, if guided, the unconditional tensors, first dimension n."""
        negatives = request.negative_embeds
        unconditional = None if negatives is None else {"prompt_embeds": negatives}
        return {"prompt_embeds": request.embeds}, unconditional

    def unet_inputs(self, tensors: Tensors) -> dict[str, Any]:
        """Return the UNet's keyword arguments for tensors that `condition` computed."""
        return {"encoder_hidden_states": None, "class_labels": tensors["prompt_embeds"]}

    def to_outputs(self, latents: Tensor) -> Tensor:
        """Decode latents to waveforms (n, samples), as drafts of a vocoder that makes such."""
        parts = self.parts
        return parts._vocode(parts._decode_mels(latents), draft=parts.makes_drafts)
