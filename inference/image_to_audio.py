"""From a photograph to its sound: CLIP, a translator, then AudioLDM's UNet, VAE and vocoder."""

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import SpeechT5HifiGan

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.core.presets import resolve
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.compatibility import (
    PathOrId,
    check_sizes,
    check_spaces,
    clap_on_disk,
    clip_space,
    ranker_space,
    space_by_name,
    translator_spaces,
)
from clip2clap.inference.generator_clap import GeneratorClap
from clip2clap.inference.guidance import interval_steps
from clip2clap.inference.inputs import (
    as_list,
    check_callback_inputs,
    check_counts,
    check_generators,
    check_interval,
    check_latents,
    check_numbers,
    check_one_or_each,
    check_steps,
    check_texts,
    check_vectors,
    only_one,
)
from clip2clap.inference.loading.generator import (
    OLDER_PARTS,
    SMALL_PARTS,
    SOUND_PARTS,
    DtypeChoice,
    fetch_folder,
    load_encoders,
    load_scheduler,
    load_sound_parts,
    load_strictly,
    part_dtypes,
    part_folder,
    quietly,
    read_index,
)
from clip2clap.inference.noise import draw_noise, second_generators, spread_generators, step_options
from clip2clap.inference.ranking import rank_candidates
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.media.images import load_image
from clip2clap.models.autoencoders import Autoencoder, vae_scale_factor
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.translator.base import Translator

ImageSource = str | Path | bytes | Image.Image
Negative = Literal["auto", "learned", "prompt", "zero"]

logger = logging.getLogger(__name__)

_FOREIGN_PIPELINES = {"AudioLDMPipeline": 2.5, "MusicLDMPipeline": 2.0}
"""The checkpoints `from_audioldm` takes, with the guidance scale their pipelines default to."""

_DEFAULT_BATCH = 8
_IMAGES_AT_ONCE = 64


@dataclass
class ImageToAudioOutput(BaseOutput):
    """What `ImageToAudioPipeline` gives."""

    audios: NDArray[np.float32] | Tensor
    """The sounds, shape (n, samples), float32 within [-1, 1]."""

    sampling_rate: int
    """Samples a second, in Hz."""

    audio_embeds: Tensor
    """The CLAP vectors the sounds were made from, shape (n, d), float32 on the CPU."""

    similarities: Tensor | None = None
    """Cosine similarity of every candidate, shape (n, num_candidates); None for one candidate."""


class ImageToAudioPipeline(DiffusionPipeline):
    """Makes the sound of a photograph, with a generator that was trained to hear words.

    The photograph's CLIP embedding is carried by a translator into the generator's CLAP space,
    where it takes the place of the text encoder's output (AudioLDM, Liu et al. 2023,
    arXiv 2301.12503; MusicLDM, Chen et al. 2023, arXiv 2308.01546). The text encoder itself is no
    part of the pipeline: it is loaded when a prompt in words is given, used, and freed.

    Args:
        clip: Encodes photographs; None if only vectors and words will be given.
        translator: Maps CLIP image embeddings to the generator's CLAP; None like `clip`.
        unet: Denoises latents under a CLAP vector given as class labels.
        vae: Decodes latents to log-mel spectrograms.
        vocoder: Turns log-mel spectrograms into sound.
        scheduler: Any diffusers scheduler that fits the UNet; see `few_step_scheduler`.
        negative_embedding: The vector to guide away from, if the generator has one of its own.
        retrieval_memory: Draws CLAP vectors towards those that the generator knows well, before it
            is told them; candidates are still compared with the vectors as they were.
        ranker: A CLAP with an audio tower, to choose among candidates.
        ranker_translator: Maps CLIP image embeddings into the ranker's space, where that is not
            the generator's own.
        clap_id: Where the generator's own CLAP can be loaded from for prompts in words.
        clap_space: The space of that CLAP, as `EmbeddingSpace.to_dict()` gives it.
        clap_revision: The revision of `clap_id` on the hub.
        default_guidance_scale: What `guidance_scale=None` means.
        default_guidance_interval: What `guidance_interval=None` means.
        default_num_inference_steps: What `num_inference_steps=None` means.
        default_num_candidates: What `num_candidates=None` means.

    Raises:
        SpaceMismatchError: If two parts were made for different encoders.
        UserError: If the parts' sizes don't fit together.
    """

    model_cpu_offload_seq = "clip->translator->unet->vae->vocoder"
    _optional_components = [  # noqa: RUF012 (the name and type are diffusers')
        "clip",
        "translator",
        "negative_embedding",
        "retrieval_memory",
        "ranker",
        "ranker_translator",
    ]
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012

    clip: ClipEncoder | None
    translator: Translator | None
    unet: UNet2DConditionModel
    vae: Autoencoder
    vocoder: SpeechT5HifiGan | SpectralVocoder
    scheduler: Any
    negative_embedding: LearnedNegativeEmbedding | None
    retrieval_memory: RetrievalMemory | None
    ranker: ClapEncoder | None
    ranker_translator: Translator | None

    def __init__(
        self,
        clip: ClipEncoder | None,
        translator: Translator | None,
        unet: UNet2DConditionModel,
        vae: Autoencoder,
        vocoder: SpeechT5HifiGan | SpectralVocoder,
        scheduler: SchedulerMixin,
        negative_embedding: LearnedNegativeEmbedding | None = None,
        retrieval_memory: RetrievalMemory | None = None,
        ranker: ClapEncoder | None = None,
        ranker_translator: Translator | None = None,
        clap_id: str | None = None,
        clap_space: dict[str, Any] | None = None,
        clap_revision: str | None = None,
        default_guidance_scale: float = 2.5,
        default_guidance_interval: tuple[float, float] = (0.0, 1.0),
        default_num_inference_steps: int = 15,
        default_num_candidates: int = 1,
    ) -> None:
        super().__init__()
        check_spaces(
            clip=clip_space(clip),
            clap=EmbeddingSpace.from_dict(clap_space) if clap_space else None,
            translator=translator_spaces(translator),
            ranker=ranker_space(ranker),
            ranker_translator=translator_spaces(ranker_translator),
        )
        check_sizes(
            unet, vae, vocoder, translator, negative_embedding, retrieval_memory, clap_space
        )
        self.register_modules(
            clip=clip,
            translator=translator,
            unet=unet,
            vae=vae,
            vocoder=vocoder,
            scheduler=scheduler,
            negative_embedding=negative_embedding,
            retrieval_memory=retrieval_memory,
            ranker=ranker,
            ranker_translator=ranker_translator,
        )
        self.register_to_config(
            clap_id=clap_id,
            clap_space=clap_space,
            clap_revision=clap_revision,
            default_guidance_scale=default_guidance_scale,
            default_guidance_interval=default_guidance_interval,
            default_num_inference_steps=default_num_inference_steps,
            default_num_candidates=default_num_candidates,
        )
        self.vae_scale_factor = vae_scale_factor(vae)
        self.generator_clap = GeneratorClap(self)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: PathOrId,
        *,
        clip: ClipEncoder | PathOrId | None = None,
        translator: Translator | PathOrId | None = None,
        ranker: ClapEncoder | PathOrId | None = None,
        ranker_translator: Translator | PathOrId | None = None,
        scheduler: SchedulerMixin | None = None,
        torch_dtype: DtypeChoice = "auto",
        variant: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "ImageToAudioPipeline":
        """Load a pipeline from what `save_pretrained` wrote, or from an AudioLDM checkpoint.

        The spaces of all parts are compared before any weights are read, and every part's
        weights must be complete.

        Args:
            pretrained_model_name_or_path: `"demo"`, another preset's name, a hub id or a folder.
                An AudioLDM or MusicLDM checkpoint goes the way of `from_audioldm`.
            clip: Takes the place of the saved one; an encoder, or what `ClipEncoder` loads.
            translator: Takes the place of the saved one; a translator, a folder or a hub id.
            ranker: A CLAP with an audio tower to choose among candidates with.
            ranker_translator: From the CLIP's space into the ranker's.
            scheduler: Takes the place of the saved one.
            torch_dtype: For UNet, VAE and vocoder: a dtype, one for each part by name (with
                `"default"` for the rest), None for float32, or `"auto"`: `fastest_dtype()` for
                UNet and VAE, and float32 for the vocoder, whose noise in bfloat16 can be heard.
                CLIP and translators stay in float32 unless named, since they run once a
                photograph and everything after hangs on their vector.
            variant: The weights' variant, such as `"fp16"`.
            revision: Branch, tag or commit on the hub.
            token: Credentials for a private repository.
            local_files_only: Ask no hub.

        Returns:
            The pipeline, on the CPU.

        Raises:
            SpaceMismatchError: If two parts were made for different encoders.
            CheckpointError: If files or weights are missing or don't fit; they are named.
        """
        name = resolve(os.fspath(pretrained_model_name_or_path), "generator")
        given = {
            "clip": clip,
            "translator": translator,
            "ranker": ranker,
            "ranker_translator": ranker_translator,
        }
        access = {"token": token, "local_files_only": local_files_only}
        # First what says which spaces the parts speak in, then, if they agree, what is heavy.
        light = [part for part, value in given.items() if value is None]
        folder = fetch_folder(name, light, revision=revision, **access)
        index = read_index(folder)
        if index.get("_class_name") in _FOREIGN_PIPELINES:
            return cls.from_audioldm(
                name,
                **given,  # pyright: ignore[reportArgumentType]
                scheduler=scheduler,
                torch_dtype=torch_dtype,
                variant=variant,
                revision=revision,
                **access,
            )
        _require_own(index, folder)
        for part in given:
            if given[part] is None and index.get(part, [None])[0] is not None:
                given[part] = folder / part
        clap_space = index.get("clap_space")
        check_spaces(
            clip=clip_space(given["clip"], **access),
            clap=EmbeddingSpace.from_dict(clap_space) if clap_space else None,
            translator=translator_spaces(given["translator"], **access),
            ranker=ranker_space(given["ranker"], **access),
            ranker_translator=translator_spaces(given["ranker_translator"], **access),
        )
        heavy = ["scheduler", *SOUND_PARTS, *SMALL_PARTS, *OLDER_PARTS]
        fetch_folder(name, heavy, variant=variant, revision=revision, **access)
        small = {
            part: load_strictly(part_class, part_folder(folder, part), dtype=torch.float32)
            for part, part_class in SMALL_PARTS.items()
            if index.get(part, [None])[0] is not None
        }
        dtypes = part_dtypes(torch_dtype)
        pipeline = cls(
            **load_encoders(given, dtypes, modalities={"clip": ("image",)}, **access),
            **load_sound_parts(folder, index, dtypes, variant),
            **small,
            scheduler=scheduler or load_scheduler(folder, index),
            clap_id=index.get("clap_id"),
            clap_space=clap_space,
            clap_revision=index.get("clap_revision"),
            default_guidance_scale=index.get("default_guidance_scale", 2.5),
            default_guidance_interval=index.get("default_guidance_interval", (0.0, 1.0)),
            default_num_inference_steps=index.get("default_num_inference_steps", 15),
            default_num_candidates=index.get("default_num_candidates", 1),
        )
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    @classmethod
    def from_audioldm(
        cls,
        pretrained_model_name_or_path: PathOrId,
        *,
        clip: ClipEncoder | PathOrId | None = None,
        translator: Translator | PathOrId | None = None,
        ranker: ClapEncoder | PathOrId | None = None,
        ranker_translator: Translator | PathOrId | None = None,
        scheduler: SchedulerMixin | None = None,
        fetch_text_encoder: bool = True,
        torch_dtype: DtypeChoice = "auto",
        variant: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "ImageToAudioPipeline":
        """Take the generator out of an AudioLDM (first version) or MusicLDM checkpoint.

        The checkpoint's text encoder stays on disk. Its files serve twice before the generator is
        loaded: their fingerprint shows whether the translator was trained for this generator, and
        the embedding of the empty prompt, which these generators were trained to guide away from,
        is made once and kept as `negative_embedding` (the text encoder is freed again).

        Args:
            pretrained_model_name_or_path: A preset's name, a hub id or a folder.
            clip: Encodes photographs; an encoder, or what `ClipEncoder` loads.
            translator: From that CLIP's space into this generator's CLAP space.
            ranker: A CLAP with an audio tower to choose among candidates with.
            ranker_translator: From the CLIP's space into the ranker's.
            scheduler: In place of the default, `few_step_scheduler` of the checkpoint's config.
            fetch_text_encoder: Whether to download the text encoder's files (some 500 MB) if they
                are not on disk. Without them the translator's generator is checked by name only,
                and guidance steers away from the zero vector, which these generators never met
                in training.
            torch_dtype: As in `from_pretrained`.
            variant: The weights' variant, such as `"fp16"`.
            revision: Branch, tag or commit on the hub.
            token: Credentials for a private repository.
            local_files_only: Ask no hub.

        Returns:
            The pipeline, on the CPU.

        Raises:
            SpaceMismatchError: If the translator was trained for another CLIP or another CLAP.
            CheckpointError: If files or weights are missing or don't fit; they are named.
        """
        name = resolve(os.fspath(pretrained_model_name_or_path), "generator")
        access = {"token": token, "local_files_only": local_files_only}
        folder = fetch_folder(name, [], revision=revision, **access)
        index = read_index(folder)
        class_name = index.get("_class_name")
        if class_name not in _FOREIGN_PIPELINES:
            raise CheckpointError(
                f"{name} is a checkpoint of {class_name}. Expected one of "
                f"{', '.join(_FOREIGN_PIPELINES)}, whose UNets take a CLAP vector."
            )
        given = {
            "clip": clip,
            "translator": translator,
            "ranker": ranker,
            "ranker_translator": ranker_translator,
        }
        spaces = translator_spaces(translator, **access)
        text_encoder_at_hand = fetch_text_encoder or clap_on_disk(name, revision=revision)
        if text_encoder_at_hand:
            clap_space = read_space(
                name, family="clap", modality="text", revision=revision, **access
            )
        else:
            clap_space = space_by_name(name, spaces)
        check_spaces(
            clip=clip_space(clip, **access),
            clap=clap_space,
            translator=spaces,
            ranker=ranker_space(ranker, **access),
            ranker_translator=translator_spaces(ranker_translator, **access),
        )
        heavy = ["scheduler", *SOUND_PARTS]
        fetch_folder(name, heavy, variant=variant, revision=revision, **access)
        negative = None
        if text_encoder_at_hand:
            text_encoder = ClapEncoder.from_pretrained(
                name, modalities=("text",), revision=revision, **access
            )
            negative = LearnedNegativeEmbedding.from_vector(
                text_encoder.encode_text([""])[0], origin="empty prompt"
            )
            del text_encoder
        dtypes = part_dtypes(torch_dtype)
        pipeline = cls(
            **load_encoders(given, dtypes, modalities={"clip": ("image",)}, **access),
            **load_sound_parts(folder, index, dtypes, variant),
            scheduler=scheduler or few_step_scheduler(load_scheduler(folder, index)),
            negative_embedding=negative,
            clap_id=name,
            clap_space=clap_space.to_dict() if clap_space else None,
            clap_revision=revision,
            default_guidance_scale=_FOREIGN_PIPELINES[class_name],
        )
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    def to(self, *args: Any, **kwargs: Any) -> "ImageToAudioPipeline":
        """Move or cast all parts, as `DiffusionPipeline.to` does."""
        with quietly():
            return super().to(*args, **kwargs)

    @property
    def sampling_rate(self) -> int:
        """Samples a second of the sounds made, in Hz."""
        return self.vocoder.config.sampling_rate

    @property
    def default_audio_length_in_s(self) -> float:
        """Length of a sound if none is asked for: what the UNet was trained on, in seconds."""
        frames = self.unet.config["sample_size"] * self.vae_scale_factor
        return frames * self._hop_length / self.sampling_rate

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call that is running or was last."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """The number of UNet timesteps of the call that is running or was last."""
        return self._num_timesteps

    @property
    def _hop_length(self) -> int:
        return math.prod(self.vocoder.config.upsample_rates)

    @property
    def _clap_dim(self) -> int:
        return self.unet.config["projection_class_embeddings_input_dim"]

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
        negative: Negative = "auto",
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_embeds: Tensor | None = None,
        num_candidates: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: Literal["np", "pt"] = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImageToAudioOutput:
        """Make a sound for each photograph, prompt or vector.

        Noise is drawn item by item, so that a seed gives the same sound whatever the batch size.
        A list of generators is used as it is, one for each item. From a single generator (or
        torch's global one) one 64-bit integer is drawn for each item, in order, and seeds that
        item's own generator. An item's starting noise is its generator's first draw of shape
        (1, channels, time, frequency) in float32, and a scheduler that adds noise draws on from
        there. Candidate 0 is the sound of a single candidate; each further candidate has a
        generator seeded by an integer drawn from a copy of the item's, which is not moved by it.
        A translator that samples (`PriorTranslator`) draws a vector for each candidate, with a
        generator made in the same way from the candidate's.

        Args:
            images: Photographs: files, http(s) URLs, bytes or PIL images, one or many. Give
                exactly one of `images`, `prompt` and `prompt_embeds`.
            prompt: Words instead of photographs; the generator's text encoder is loaded, used
                and freed, once for all texts of the call.
            prompt_embeds: CLAP vectors in the generator's space instead, shape (n, d) or (d,),
                taken as they are (the generator knows unit-norm ones).
            audio_length_in_s: Length in seconds; the UNet's own length if None.
            num_inference_steps: Denoising steps; the pipeline's default if None.
            guidance_scale: Strength of classifier-free guidance; 1 and less turn it off; the
                pipeline's default if None.
            guidance_interval: First and last fraction of the denoising steps that are guided, such
                as (0.0, 0.5); the UNet runs on half the batch for the rest (Kynkäänniemi et al.
                2024, arXiv 2404.07724); the pipeline's default if None.
            negative: What to guide away from: `"learned"` is the pipeline's `negative_embedding`,
                `"prompt"` the embedding of the empty prompt, `"zero"` the zero vector, and
                `"auto"` the first of these three that is at hand without a download.
            negative_prompt: Words to guide away from, one for all items or one for each.
            negative_prompt_embeds: Vectors to guide away from, shape (n, d), (1, d) or (d,).
            num_candidates: Sounds to make for each item, of which the nearest to the vector by a
                CLAP audio encoder is kept; the pipeline's default if None, or 1 with `latents`.
            eta: Noise that DDIM adds, from 0 to 1 (arXiv 2010.02502); other schedulers ignore it.
            generator: Where the noise comes from; see above.
            latents: Starting noise instead, shape (n * num_candidates, channels, time, frequency),
                an item's candidates side by side.
            batch_size: Sounds made at a time; 8 if None.
            output_type: `"np"` for a NumPy array, `"pt"` for a tensor.
            return_dict: Whether to give an `ImageToAudioOutput` or a tuple.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after
                every step of every batch; may give back a dict of tensors to go on with.
            callback_on_step_end_tensor_inputs: Which of `latents`, `prompt_embeds` and
                `negative_prompt_embeds` the callback gets.

        Returns:
            The sounds, with the vectors they were made from; with `return_dict=False` the same
            values as a tuple.

        Raises:
            UserError: If an argument makes no sense, a photograph can't be read (it is named), or
                candidates can't be ranked with what the pipeline has.
        """
        steps = num_inference_steps or self.config["default_num_inference_steps"]
        scale = self.config["default_guidance_scale"] if guidance_scale is None else guidance_scale
        interval = guidance_interval or self.config["default_guidance_interval"]
        seconds = self.default_audio_length_in_s if audio_length_in_s is None else audio_length_in_s
        batch_size = _DEFAULT_BATCH if batch_size is None else batch_size
        if num_candidates is None:
            own = cast(int, self.config["default_num_candidates"])
            num_candidates = 1 if latents is not None else own
        photographs = as_list(images)
        words = as_list(prompt)
        self.check_inputs(
            images=photographs,
            prompt=words,
            prompt_embeds=prompt_embeds,
            audio_length_in_s=seconds,
            num_inference_steps=num_inference_steps,
            guidance_scale=scale,
            guidance_interval=interval,
            eta=eta,
            negative=negative,
            negative_prompt=as_list(negative_prompt),
            negative_prompt_embeds=negative_prompt_embeds,
            num_candidates=num_candidates,
            generator=generator,
            latents=latents,
            batch_size=batch_size,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale = float(scale)
        guided = scale > 1.0

        # Everything that is asked for in words is embedded in one go, so that the text encoder is
        # loaded once, and before the photographs so that a failure costs no time.
        negative_words = self._negative_words(negative, negative_prompt, negative_prompt_embeds)
        texts = [*(words or []), *(negative_words if guided and negative_words else [])]
        if texts:
            self.generator_clap.encode_text(texts)

        image_embeds = None
        if photographs is not None:
            image_embeds = vectors = self._encode_photographs(photographs)
        elif words is not None:
            vectors = self.generator_clap.encode_text(words)
        else:
            vectors = torch.atleast_2d(prompt_embeds).detach().to("cpu", torch.float32)
        count = len(vectors)
        generators = spread_generators(generator, count, num_candidates)
        vectors = vectors.repeat_interleave(num_candidates, dim=0)
        if image_embeds is not None:
            vectors = self._translate(vectors, self.translator, second_generators(generators))
        vectors = vectors.view(count, num_candidates, -1)
        targets = None
        if num_candidates > 1:
            targets = self._ranking_targets(vectors.mean(1), image_embeds, words)

        negatives = None
        if guided:
            negatives = self._negative_vectors(
                negative, negative_words, negative_prompt_embeds, count
            )

        samples = round(seconds * self.sampling_rate)
        noise = self._starting_noise(generators, samples, latents)
        total = count * num_candidates
        conditions = self._recall(vectors.flatten(0, 1))
        if negatives is not None:
            negatives = negatives.repeat_interleave(num_candidates, dim=0)

        sounds = []
        self.scheduler.set_timesteps(steps, device=self._execution_device)
        self._num_timesteps = len(self.scheduler.timesteps)
        batches = [slice(at, at + batch_size) for at in range(0, total, batch_size)]
        bar_of = cast(Callable[..., Any], self.progress_bar)
        with bar_of(total=self._num_timesteps * len(batches)) as bar:
            for batch in batches:
                denoised = self._denoise(
                    noise[batch],
                    conditions[batch],
                    None if negatives is None else negatives[batch],
                    steps=steps,
                    guidance_scale=scale,
                    guidance_interval=interval,
                    eta=eta,
                    generators=generators[batch],
                    callback=callback_on_step_end,
                    callback_inputs=callback_on_step_end_tensor_inputs,
                    advance=bar.update,
                )
                sounds.append(self._decode(denoised)[:, :samples])
        audio = torch.cat(sounds)

        similarities = None
        if targets is not None:
            best, similarities = self._rank(audio, targets, num_candidates)
            items = torch.arange(count)
            audio = audio.view(count, num_candidates, -1)[items, best]
            vectors = vectors[items, best, None]
        self.maybe_free_model_hooks()
        output = ImageToAudioOutput(
            audios=audio.numpy() if output_type == "np" else audio,
            sampling_rate=self.sampling_rate,
            audio_embeds=vectors.squeeze(1),
            similarities=similarities,
        )
        # Typed for the usual case; an overload for the other would repeat all the arguments.
        return output if return_dict else output.to_tuple()  # pyright: ignore[reportReturnType]

    def check_inputs(
        self,
        *,
        images: list[ImageSource] | None,
        prompt: list[str] | None,
        prompt_embeds: Tensor | None,
        audio_length_in_s: float,
        num_inference_steps: int | None,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
        eta: float,
        negative: str,
        negative_prompt: list[str] | None,
        negative_prompt_embeds: Tensor | None,
        num_candidates: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
        batch_size: int,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> None:
        """Refuse arguments that make no sense, before anything is computed.

        Raises:
            UserError: With what was wrong, what was expected and how to mend it.
        """
        only_one(images=images, prompt=prompt, prompt_embeds=prompt_embeds)
        if images is not None:
            self._check_photographs(images)
            count = len(images)
        elif prompt is not None:
            check_texts(prompt, "prompt")
            count = len(prompt)
        else:
            self._check_vectors(prompt_embeds, "prompt_embeds")
            count = len(torch.atleast_2d(cast(Tensor, prompt_embeds)))

        self._check_length(audio_length_in_s)
        check_steps(num_inference_steps, self.scheduler)
        check_numbers(math.inf, guidance_scale=guidance_scale)
        check_numbers(1.0, eta=eta)
        check_interval(guidance_interval, "guidance_interval")
        check_counts(num_candidates=num_candidates, batch_size=batch_size)
        if output_type not in ("np", "pt"):
            raise UserError(f"Expected output_type to be 'np' or 'pt', got {output_type!r}.")
        check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self._check_negative(negative, negative_prompt, negative_prompt_embeds, count)
        check_generators(generator, count)
        total = count * num_candidates
        shape = self._latent_shape(round(audio_length_in_s * self.sampling_rate))
        check_latents(latents, (total, *shape), f"{total} sounds of {audio_length_in_s:g} s")
        if num_candidates > 1:
            self._check_ranking(has_photographs=images is not None, has_words=prompt is not None)

    def _check_photographs(self, images: list[ImageSource]) -> None:
        if self.clip is None or self.translator is None:
            raise UserError(
                "Photographs need a CLIP and a translator, and this pipeline was made without: "
                "load it with clip=... and translator=..., or give prompt_embeds."
            )
        if not images:
            raise UserError("There are no photographs: images is an empty list.")

    def _check_vectors(self, vectors: Any, name: str) -> None:
        check_vectors(vectors, name, self._clap_dim, space="the space of the generator's own CLAP")

    def _check_length(self, seconds: float) -> None:
        shortest = self.vae_scale_factor * self._hop_length / self.sampling_rate
        if not isinstance(seconds, int | float) or not shortest <= seconds < math.inf:
            raise UserError(
                f"Expected audio_length_in_s to be at least {shortest:g} seconds, got {seconds!r}."
            )

    def _check_negative(
        self,
        negative: str,
        negative_prompt: list[str] | None,
        negative_prompt_embeds: Tensor | None,
        count: int,
    ) -> None:
        if negative not in get_args(Negative):
            raise UserError(
                f"Expected negative to be one of {', '.join(get_args(Negative))}, got {negative!r}."
            )
        if negative_prompt is not None and negative_prompt_embeds is not None:
            raise UserError("Give negative_prompt or negative_prompt_embeds, not both.")
        chosen = negative_prompt is not None or negative_prompt_embeds is not None
        if chosen and negative not in ("auto", "prompt"):
            raise UserError(
                f"negative={negative!r} chooses another vector than the negative prompt given "
                "beside it. Leave one of the two out."
            )
        if negative == "learned" and self.negative_embedding is None:
            raise UserError(
                "This pipeline has no negative_embedding to guide away from. Use negative='auto', "
                "'prompt' or 'zero'."
            )
        if negative_prompt is not None:
            check_texts(negative_prompt, "negative_prompt")
            check_one_or_each(negative_prompt, "negative_prompt", count)
        if negative_prompt_embeds is not None:
            self._check_vectors(negative_prompt_embeds, "negative_prompt_embeds")
            check_one_or_each(negative_prompt_embeds, "negative_prompt_embeds", count)

    def _check_ranking(self, *, has_photographs: bool, has_words: bool) -> None:
        ranker_is_own = self.generator_clap.is_model_of(self.ranker)
        if self.ranker is None:
            try:
                self.generator_clap.hearing()
            except UserError as error:
                raise UserError(
                    "num_candidates above 1 needs a CLAP that hears, to keep the best sound, and "
                    f"the generator's own can't: {error} Load the pipeline with ranker=... (such "
                    "as 'clap-htsat-unfused') and ranker_translator=..., a translator from the "
                    "same CLIP into that CLAP's space."
                ) from error
        elif not ranker_is_own and not (has_photographs or has_words):
            raise UserError(
                "Candidates for prompt_embeds can't be ranked: they lie in the generator's space, "
                "the ranker hears in another. Give images or prompt, or num_candidates=1."
            )
        elif has_photographs and not ranker_is_own and self.ranker_translator is None:
            raise UserError(
                "Candidates for photographs are ranked in the ranker's space, which is not the "
                "generator's: load the pipeline with ranker_translator=..., from the same CLIP "
                "into that CLAP's space."
            )

    def _encode_photographs(self, photographs: list[ImageSource]) -> Tensor:
        """Encode all photographs, so that one that can't be read stops before any sound."""
        embeds = []
        for start in range(0, len(photographs), _IMAGES_AT_ONCE):
            opened = []
            for index, source in enumerate(photographs[start : start + _IMAGES_AT_ONCE], start):
                try:
                    opened.append(load_image(source))
                except UserError as error:
                    if len(photographs) == 1:
                        raise
                    raise type(error)(
                        f"Photograph {index + 1} of {len(photographs)}: {error}"
                    ) from error
            assert self.clip is not None
            embeds.append(self.clip.encode_image(opened))
        return torch.cat(embeds)

    def _translate(
        self,
        embeds: Tensor,
        translator: Translator | None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        assert translator is not None
        moved = embeds.to(self._execution_device)
        drawn = translator.sample(moved, generator=generators).squeeze(1)
        return drawn.to("cpu", torch.float32)

    def _negative_words(
        self,
        negative: Negative,
        negative_prompt: str | Sequence[str] | None,
        negative_prompt_embeds: Tensor | None,
    ) -> list[str] | None:
        """Give the texts to guide away from, or None where no text is needed."""
        if negative_prompt is not None:
            return as_list(negative_prompt)
        if negative_prompt_embeds is not None:
            return None
        if negative == "prompt":
            return [""]
        if (
            negative == "auto"
            and self.negative_embedding is None
            and self.generator_clap.is_at_hand
        ):
            return [""]
        return None

    def _negative_vectors(
        self, negative: Negative, words: list[str] | None, embeds: Tensor | None, count: int
    ) -> Tensor:
        if words is not None:
            vectors = self._recall(self.generator_clap.encode_text(words))
        elif embeds is not None:
            vectors = self._recall(torch.atleast_2d(embeds).detach().to("cpu", torch.float32))
        elif self.negative_embedding is not None and negative != "zero":
            vectors = self.negative_embedding(1).to("cpu", torch.float32)
        else:
            if negative == "auto":
                logger.info(
                    "Guiding away from the zero vector: the pipeline has no negative_embedding, "
                    "and its generator's text encoder is not on disk."
                )
            vectors = torch.zeros(1, self._clap_dim)
        return vectors.expand(count, -1)

    def _recall(self, vectors: Tensor) -> Tensor:
        return vectors if self.retrieval_memory is None else self.retrieval_memory(vectors)

    def _latent_shape(self, samples: int) -> tuple[int, int, int]:
        frames = math.ceil(samples / self._hop_length)
        return (
            self.unet.config["in_channels"],
            math.ceil(frames / self.vae_scale_factor),
            self.vocoder.config.model_in_dim // self.vae_scale_factor,
        )

    def _starting_noise(
        self, generators: list[torch.Generator], samples: int, latents: Tensor | None
    ) -> Tensor:
        """Draw each sound's noise from its own generator, in float32 whatever the models' dtype."""
        if latents is not None:
            return latents.detach().to("cpu", torch.float32)
        return draw_noise(self._latent_shape(samples), generators)

    def _denoise(
        self,
        noise: Tensor,
        conditions: Tensor,
        negatives: Tensor | None,
        *,
        steps: int,
        guidance_scale: float,
        guidance_interval: tuple[float, float],
        eta: float,
        generators: list[torch.Generator],
        callback: Callable[..., dict[str, Any]] | None,
        callback_inputs: Sequence[str],
        advance: Callable[[], Any],
    ) -> Tensor:
        """Run the diffusion backwards for one batch; the latents stay in float32 throughout."""
        device, dtype = self._execution_device, self.unet.dtype
        self.scheduler.set_timesteps(steps, device=device)
        timesteps = self.scheduler.timesteps
        guided_steps = interval_steps(guidance_interval, len(timesteps))
        options = step_options(self.scheduler, eta, generators)
        tensors: dict[str, Any] = {
            "latents": noise.to(device) * self.scheduler.init_noise_sigma,
            "prompt_embeds": conditions.to(device, dtype),
            "negative_prompt_embeds": None if negatives is None else negatives.to(device, dtype),
        }
        for index, timestep in enumerate(timesteps):
            latents, positive, negative = tensors.values()
            if negative is not None and index in guided_steps:
                guided, labels = True, torch.cat([negative, positive])
            else:
                guided, labels = False, positive
            scaled = self.scheduler.scale_model_input(latents, timestep).to(dtype)
            predicted = self.unet(
                torch.cat([scaled, scaled]) if guided else scaled,
                timestep,
                encoder_hidden_states=None,
                class_labels=labels,
                return_dict=False,
            )[0].float()
            if guided:
                away, towards = predicted.chunk(2)
                predicted = away + guidance_scale * (towards - away)
            tensors["latents"] = self.scheduler.step(
                predicted, timestep, latents, **options, return_dict=False
            )[0]
            if callback is not None:
                chosen = {name: tensors[name] for name in callback_inputs}
                changed = callback(self, index, timestep, chosen) or {}
                tensors = {name: changed.get(name, value) for name, value in tensors.items()}
            advance()
        return tensors["latents"]

    def _decode(self, latents: Tensor) -> Tensor:
        """Turn latents into sound, shape (n, samples), float32 on the CPU."""
        scaled = (latents / self.vae.config["scaling_factor"]).to(self.vae.dtype)
        mel = self.vae.decode(scaled, return_dict=False)[0].squeeze(1)
        sound = self.vocoder(mel.to(self.vocoder.dtype)).to("cpu", torch.float32)
        # A vocoder without a bound may exceed full scale, where a file's samples would be clipped.
        return sound / sound.abs().amax(1, keepdim=True).clamp(min=1.0)

    def _ranking_targets(
        self, vectors: Tensor, image_embeds: Tensor | None, words: list[str] | None
    ) -> Tensor:
        """Give what the candidates should sound like, in the space of the CLAP that hears them."""
        if self.ranker is None or self.generator_clap.is_model_of(self.ranker):
            return vectors
        if image_embeds is not None:
            return self._translate(image_embeds, self.ranker_translator)
        assert words is not None
        return self.ranker.encode_text(words)

    def _rank(self, audio: Tensor, targets: Tensor, num_candidates: int) -> tuple[Tensor, Tensor]:
        ranker = self.ranker or self.generator_clap.hearing().to(self._execution_device)
        heard = ranker.encode_audio([(sound.numpy(), self.sampling_rate) for sound in audio])
        count = len(targets)
        return rank_candidates(heard.view(count, num_candidates, -1), targets.to(heard.device))


def _require_own(index: dict[str, Any], folder: Path) -> None:
    class_name = index.get("_class_name")
    if class_name != ImageToAudioPipeline.__name__:
        raise CheckpointError(
            f"{folder} holds a {class_name}. Expected {ImageToAudioPipeline.__name__}, "
            f"{' or '.join(_FOREIGN_PIPELINES)}."
        )
