"""From a recording to a picture: CLAP, a translator, then a decoder that paints CLIP embeddings."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import IPAdapterMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.core.presets import companions_of, resolve
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.inference.audio_inputs import AudioSource, audio_list, read_recordings
from clip2clap.inference.compatibility import PathOrId, check_painting_spaces
from clip2clap.inference.decoders.decoders import ImageDecoder, Request, decoder_of
from clip2clap.inference.inputs import (
    as_list,
    check_callback_inputs,
    check_counts,
    check_generators,
    check_latents,
    check_numbers,
    check_one_or_each,
    check_steps,
    check_texts,
    check_vectors,
    is_count,
    only_one,
)
from clip2clap.inference.loading.decoder import (
    GUIDANCE_SCALES,
    HEAVY_PARTS,
    KINDS,
    STEPS,
    IPAdapterWeights,
    embedding_norm,
    kind_of,
    load_decoder_parts,
    own_space,
    part_folders,
    zero_picture_embedding,
)
from clip2clap.inference.loading.generator import (
    OLDER_PARTS,
    DtypeChoice,
    fetch_folder,
    load_encoders,
    part_dtypes,
    quietly,
    read_index,
)
from clip2clap.inference.mixing import mix_embeds
from clip2clap.inference.noise import spread_generators
from clip2clap.inference.ranking import rank_candidates
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.media.images import load_image
from clip2clap.media.pixels import to_pictures, to_pixels
from clip2clap.models.autoencoders import Autoencoder
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.translator.base import Translator

ImageSource = str | Path | bytes | Image.Image

_DEFAULT_BATCH = 8
_DEFAULT_PROMPT_WEIGHT = 0.3
_SETTINGS = (
    "decoder_kind",
    "clip_space",
    "clap_id",
    "clip_id",
    "embed_norm",
    "default_guidance_scale",
    "default_num_inference_steps",
)
# A vector whose norm differs from 1 by less than this was scaled to unit norm by somebody.
_UNIT_TOLERANCE = 1e-3


@dataclass
class AudioToImageOutput(BaseOutput):
    """What `AudioToImagePipeline` gives."""

    images: list[Image.Image] | NDArray[np.float32] | Tensor
    """The pictures, an item's side by side: PIL images, an array (n, height, width, 3) or a tensor
    (n, 3, height, width) within [0, 1], or latents (n, channels, rows, columns)."""

    image_embeds: Tensor
    """The CLIP vectors the pictures were painted from, one an item, shape (n, d), float32, unit
    norm, on the CPU."""

    similarities: Tensor | None = None
    """Cosine similarities of the pictures' own CLIP embeddings to those vectors, shape
    (n, num_images_per_prompt); None without a CLIP."""


class AudioToImagePipeline(DiffusionPipeline, IPAdapterMixin):
    """Paints what a recording sounds like, with a decoder that was trained to paint photographs.

    The recording's CLAP embedding is carried by a translator into the CLIP space of the decoder,
    where it takes the place of a photograph's embedding.

    Args:
        clap: Hears recordings; None if only vectors will be given.
        translator: Maps CLAP embeddings to the decoder's CLIP; None like `clap`.
        clip: The decoder's own CLIP, for words and for comparing pictures with what was asked for;
            None to do without.
        unet: Denoises latents under a CLIP image embedding.
        vae: Decodes latents to pictures.
        scheduler: Any diffusers scheduler that fits the UNet; see `few_step_scheduler`.
        negative_embedding: The vector to guide away from, if the decoder has one of its own.
        retrieval_memory: Draws CLIP vectors towards those that the decoder knows well, before it is
            told them; pictures are still compared with the vectors as they were.
        text_encoder: Reads words for the UNet, if it takes any.
        tokenizer: The text encoder's.
        image_normalizer: Stable unCLIP's mean and deviation of embeddings.
        image_noising_scheduler: Stable unCLIP's schedule of the noise it adds to embeddings.
        ip_adapter: The weights that let Stable Diffusion's UNet attend to an embedding; they are
            put into the UNet here.
        decoder_kind: Which `ImageDecoder` these parts make.
        clip_space: The space of the embeddings that the decoder was trained on, as
            `EmbeddingSpace.to_dict()` gives it; None if it isn't known.
        clap_id: Where the CLAP is loaded from, if it isn't saved with the pipeline.
        clip_id: The same of the CLIP.
        embed_norm: The L2 norm of the embeddings that the decoder was trained on; vectors of unit
            norm are scaled to it.
        default_guidance_scale: What `guidance_scale=None` means.
        default_num_inference_steps: What `num_inference_steps=None` means.

    Raises:
        SpaceMismatchError: If two parts were made for different encoders.
        UserError: If the parts' sizes don't fit together.
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

    clap: ClapEncoder | None
    translator: Translator | None
    clip: ClipEncoder | None
    unet: UNet2DConditionModel
    vae: Autoencoder
    scheduler: Any
    negative_embedding: LearnedNegativeEmbedding | None
    retrieval_memory: RetrievalMemory | None
    ip_adapter: IPAdapterWeights | None

    def __init__(
        self,
        clap: ClapEncoder | None,
        translator: Translator | None,
        clip: ClipEncoder | None,
        unet: UNet2DConditionModel,
        vae: Autoencoder,
        scheduler: SchedulerMixin,
        negative_embedding: LearnedNegativeEmbedding | None = None,
        retrieval_memory: RetrievalMemory | None = None,
        text_encoder: CLIPTextModel | None = None,
        tokenizer: CLIPTokenizer | None = None,
        image_normalizer: Any = None,
        image_noising_scheduler: SchedulerMixin | None = None,
        ip_adapter: IPAdapterWeights | None = None,
        decoder_kind: str = "demo",
        clip_space: dict[str, Any] | None = None,
        clap_id: str | None = None,
        clip_id: str | None = None,
        embed_norm: float = 1.0,
        default_guidance_scale: float = 3.0,
        default_num_inference_steps: int = 20,
    ) -> None:
        super().__init__()
        self.register_modules(
            clap=clap,
            translator=translator,
            clip=clip,
            unet=unet,
            vae=vae,
            scheduler=scheduler,
            negative_embedding=negative_embedding,
            retrieval_memory=retrieval_memory,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_normalizer=image_normalizer,
            image_noising_scheduler=image_noising_scheduler,
            ip_adapter=ip_adapter,
        )
        self.register_to_config(
            decoder_kind=decoder_kind,
            clip_space=clip_space,
            clap_id=clap_id,
            clip_id=clip_id,
            embed_norm=embed_norm,
            default_guidance_scale=default_guidance_scale,
            default_num_inference_steps=default_num_inference_steps,
        )
        self.decoder: ImageDecoder = decoder_of(self, decoder_kind)
        self._text_embeds: dict[str, dict[str, Tensor]] = {}
        check_painting_spaces(clap, translator, clip, self.decoder.space)
        self._check_sizes()
        self._apply_ip_adapter()

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: PathOrId,
        *,
        clap: ClapEncoder | PathOrId | None = None,
        translator: Translator | PathOrId | None = None,
        clip: ClipEncoder | PathOrId | None = None,
        ip_adapter: IPAdapterWeights | PathOrId | None = None,
        scheduler: SchedulerMixin | None = None,
        embed_norm: float | None = None,
        torch_dtype: DtypeChoice = "auto",
        variant: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> "AudioToImagePipeline":
        """Load a pipeline from what `save_pretrained` wrote, or from a published decoder.

        The spaces of all parts are compared before any weights are read, and every part's
        weights must be complete.

        Args:
            pretrained_model_name_or_path: `"demo"`, another preset's name, a hub id or a folder:
                what `save_pretrained` wrote, or a checkpoint of Kandinsky 2.2's decoder, of stable
                unCLIP, or of Stable Diffusion, to which an IP-Adapter belongs.
            clap: Takes the place of the saved one; an encoder, or what `ClapEncoder` loads.
            translator: Takes the place of the saved one; a translator, a folder or a hub id.
            clip: Takes the place of the saved one; an encoder, or what `ClipEncoder` loads. For
                Kandinsky and an IP-Adapter it says which CLIP's embeddings they understand, how
                long these are and, for Kandinsky, what it guides away from.
            ip_adapter: The IP-Adapter for Stable Diffusion: a safetensors file, or one on the hub
                as OWNER/REPOSITORY/PATH.
            scheduler: Takes the place of the saved one; published decoders get
                `few_step_scheduler` of their own config.
            embed_norm: Takes the place of the saved or measured norm of embeddings.
            torch_dtype: For UNet, autoencoder and text encoder: a dtype, one for each part by name
                (with `"default"` for the rest), None for float32, or `"auto"`: `fastest_dtype()`.
                CLAP, CLIP and translator stay in float32 unless named.
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
        name = resolve(os.fspath(pretrained_model_name_or_path), "decoder")
        access = {"token": token, "local_files_only": local_files_only}
        given: dict[str, Any] = {"clap": clap, "translator": translator, "clip": clip}
        light = [part for part, value in given.items() if value is None]
        folder = fetch_folder(name, light, kind="decoder", revision=revision, **access)
        index = read_index(
            folder, expected=f"{cls.__name__}.save_pretrained, or one of {', '.join(KINDS)}"
        )
        own = index.get("_class_name") == cls.__name__
        kind = index["decoder_kind"] if own else kind_of(index, folder)
        companions = companions_of(name, "decoder")
        for part in light:
            saved = index.get(part, [None])[0] is not None
            given[part] = folder / part if saved else index.get(f"{part}_id", companions.get(part))
        if not own and kind == "stable-unclip" and given["clip"] is None:
            given["clip"] = name
        space = index.get("clip_space") if own else own_space(name, kind, given["clip"], **access)
        if isinstance(space, dict):
            space = EmbeddingSpace.from_dict(space)
        check_painting_spaces(**given, decoder=space, **access)
        if kind == "ip-adapter" and not isinstance(ip_adapter, IPAdapterWeights):
            adapter = ip_adapter or (None if own else companions.get("ip_adapter"))
            if adapter is None and not own:
                raise UserError(
                    f"{name} is painted with words alone: give ip_adapter=..., which lets it take "
                    "an image embedding."
                )
            ip_adapter = adapter and IPAdapterWeights.from_pretrained(adapter, **access)

        heavy = [*part_folders(kind, index).values(), *OLDER_PARTS]
        fetch_folder(name, heavy, kind="decoder", variant=variant, revision=revision, **access)
        dtypes = part_dtypes(torch_dtype, heavy=HEAVY_PARTS)
        parts = load_decoder_parts(folder, index, kind, dtypes, variant)
        encoders = load_encoders(given, dtypes, **access)
        if own:
            settings = {name: index[name] for name in _SETTINGS if name in index}
        else:
            # What the UNet says of its certainty is for the scheduler that it was trained with.
            config = {**parts["scheduler"].config, "variance_type": None}
            parts["scheduler"] = few_step_scheduler(config)
            if kind == "kandinsky-2-2":
                parts["negative_embedding"] = zero_picture_embedding(encoders["clip"])
            settings = {
                "decoder_kind": kind,
                "clip_space": space and space.to_dict(),
                "embed_norm": embedding_norm(kind, parts, encoders["clip"]),
                "default_guidance_scale": GUIDANCE_SCALES[kind],
                "default_num_inference_steps": STEPS,
            }
        chosen = {"scheduler": scheduler, "ip_adapter": ip_adapter, "embed_norm": embed_norm}
        chosen = {name: value for name, value in chosen.items() if value is not None}
        pipeline = cls(**{**settings, **encoders, **parts, **chosen})
        pipeline.register_to_config(_name_or_path=str(pretrained_model_name_or_path))
        return pipeline

    def save_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, save_directory: PathOrId, **kwargs: Any
    ) -> None:
        """Write all parts into a folder, as `DiffusionPipeline.save_pretrained` does.

        An IP-Adapter is written beside the UNet it was put into.
        """
        if self.ip_adapter is not None:
            self.unload_ip_adapter()
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self._apply_ip_adapter()

    def to(self, *args: Any, **kwargs: Any) -> "AudioToImagePipeline":
        """Move or cast all parts, as `DiffusionPipeline.to` does."""
        with quietly():
            return super().to(*args, **kwargs)

    @property
    def embed_norm(self) -> float:
        """The L2 norm of the embeddings that the decoder was trained on."""
        return self.config["embed_norm"]

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the call that is running or was last."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """The number of UNet timesteps of the call that is running or was last."""
        return self._num_timesteps

    def encode_audio(
        self,
        audios: AudioSource | Sequence[AudioSource],
        *,
        start_in_s: float = 0.0,
        length_in_s: float | None = None,
    ) -> Tensor:
        """Embed recordings into the CLAP's space.

        Args:
            audios: Files, files' bytes, or pairs of a mono waveform and its sampling rate.
            start_in_s: Where to begin in each, in s.
            length_in_s: How much of each to hear, in s; all if None.

        Returns:
            CLAP embeddings, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If a recording can't be read; it is named.
        """
        if self.clap is None:
            raise UserError(
                "Recordings need a CLAP, and this pipeline was made without: load it with "
                "clap=..., or give audio_embeds or image_embeds."
            )
        return self.clap.encode_audio(read_recordings(audio_list(audios), start_in_s, length_in_s))

    def translate(self, audio_embeds: Tensor) -> Tensor:
        """Carry CLAP embeddings into the decoder's CLIP space.

        Args:
            audio_embeds: Shape (n, d), of the CLAP's space.

        Returns:
            CLIP embeddings, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If there is no translator, or the shape is wrong.
        """
        if self.translator is None:
            raise UserError(
                "Sounds need a translator from their CLAP into the decoder's CLIP, and this "
                "pipeline was made without: load it with translator=..., or give image_embeds."
            )
        moved = audio_embeds.to(self._execution_device)
        return self.translator(moved).to("cpu", torch.float32)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed words into the decoder's CLIP space, shape (n, d), float32, unit norm.

        They are kept: the same words are read only once.

        Raises:
            UserError: If the pipeline has no CLIP that reads.
        """
        if self.clip is None or "text" not in self.clip.modalities:
            raise UserError(
                "Words need the decoder's own CLIP with its text tower, and this pipeline was made "
                "without: load it with clip=..."
            )
        model = self.clip.space("text").fingerprint
        known = self._text_embeds.setdefault(model, {})
        unknown = list(dict.fromkeys(text for text in texts if text not in known))
        if unknown:
            known.update(zip(unknown, self.clip.encode_text(unknown), strict=True))
        return torch.stack([known[text] for text in texts])

    def nearest_labels(
        self,
        image_embeds: Tensor,
        names: Sequence[str],
        *,
        template: str = "a photo of a {}",
    ) -> list[list[tuple[str, float]]]:
        """Say in words what vectors stand for.

        Args:
            image_embeds: CLIP vectors, shape (n, d), such as the output's.
            names: The names to choose from.
            template: The sentence in which CLIP reads a name.

        Returns:
            For each vector all names with their cosine similarities, the nearest first.

        Raises:
            UserError: If the pipeline has no CLIP that reads.
        """
        words = self.encode_text([template.format(name) for name in names])
        rows = (unit_norm(image_embeds).cpu() @ words.T).tolist()
        return [
            sorted(zip(names, row, strict=True), key=lambda pair: pair[1], reverse=True)
            for row in rows
        ]

    def compare(self, images: Sequence[Image.Image], image_embeds: Tensor) -> Tensor:
        """Compare pictures with the vectors they were painted from.

        Args:
            images: Of each vector as many pictures, side by side.
            image_embeds: CLIP vectors, shape (n, d).

        Returns:
            Cosine similarities, shape (n, pictures a vector), float32.

        Raises:
            UserError: If the pipeline has no CLIP.
        """
        if self.clip is None:
            raise UserError("Comparing pictures needs the decoder's CLIP: load with clip=...")
        seen = self.clip.encode_image(list(images))
        return rank_candidates(seen.view(len(image_embeds), -1, seen.shape[1]), image_embeds)[1]

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
        noise_level: int = 0,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        batch_size: int | None = None,
        output_type: Literal["pil", "np", "pt", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> AudioToImageOutput:
        """Paint pictures of each recording or vector.

        Noise is drawn item by item, so that a seed gives the same picture whatever the batch size.
        A list of generators is used as it is, one for each item. From a single generator (or
        torch's global one) one 64-bit integer is drawn for each item, in order, and seeds that
        item's own generator. Picture 0 of an item is the picture of `num_images_per_prompt=1`; each
        further one has a generator seeded by an integer drawn from a copy of the item's.

        Args:
            audios: Recordings: files, bytes, or pairs of a mono waveform and its sampling rate, one
                or many. Give exactly one of `audios`, `audio_embeds` and `image_embeds`.
            audio_start_in_s: Where to begin in each recording, in s.
            audio_length_in_s: How much of each recording to hear, in s; all if None.
            audio_embeds: CLAP vectors instead, shape (n, d), to be translated.
            image_embeds: CLIP vectors of the decoder's space instead, shape (n, d): those of unit
                norm are scaled to `embed_norm`, any other is taken as it is.
            weights: Mix all recordings or vectors into one item, in CLIP space, by these weights.
            prompt: Words beside the sound, one text for all items or one for each. A decoder that
                has a text encoder gets them through it; see `prompt_weight`.
            prompt_weight: Share of the words in the vector, from 0 to 1, mixed in CLIP space; by
                default 0 for a decoder that has a text encoder, and 0.3 for others.
            negative_prompt: Words to guide away from, for a decoder that has a text encoder.
            negative_image_embeds: CLIP vectors to guide away from, shape (n, d), (1, d) or (d,),
                taken as `image_embeds` are, for a decoder that can.
            image: A picture to start from, one for all items or one for each; cut to the shape.
            strength: How much of `image` is given up: at 1 all of it, at 0 nothing.
            noise_level: How much noise stable unCLIP adds to the vector, from 0 to the last
                timestep of its schedule: the more, the freer the picture.
            height: In pixels; what the decoder was trained on if None.
            width: In pixels, likewise.
            num_inference_steps: Denoising steps; the pipeline's default if None.
            guidance_scale: Strength of classifier-free guidance; 1 and less turn it off; the
                pipeline's default if None.
            num_images_per_prompt: Pictures of each item.
            eta: Noise that DDIM adds, from 0 to 1; other schedulers ignore it.
            generator: Where the noise comes from; see above.
            latents: Starting noise instead, shape (n * num_images_per_prompt, channels, rows,
                columns), an item's side by side.
            batch_size: Pictures painted at a time; 8 if None.
            output_type: `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict: Whether to give an `AudioToImageOutput` or a tuple.
            callback_on_step_end: Called as `callback(pipeline, step, timestep, tensors)` after
                every step of every batch; may give back a dict of tensors to go on with.
            callback_on_step_end_tensor_inputs: `("latents",)` or nothing.

        Returns:
            The pictures, with the vectors they were painted from; with `return_dict=False` the
            same values as a tuple.

        Raises:
            UserError: If an argument makes no sense, or a recording or picture can't be read.
        """
        steps = num_inference_steps or self.config["default_num_inference_steps"]
        scale = self.config["default_guidance_scale"] if guidance_scale is None else guidance_scale
        height, width = height or self.decoder.size, width or self.decoder.size
        batch_size = _DEFAULT_BATCH if batch_size is None else batch_size
        words, unwanted = as_list(prompt), as_list(negative_prompt)
        sources = None if audios is None else audio_list(audios)
        pictures = as_list(image)
        count = self.check_inputs(
            audios=sources,
            audio_embeds=audio_embeds,
            image_embeds=image_embeds,
            weights=weights,
            prompt=words,
            prompt_weight=prompt_weight,
            negative_prompt=unwanted,
            negative_image_embeds=negative_image_embeds,
            image=pictures,
            strength=strength,
            noise_level=noise_level,
            height=height,
            width=width,
            num_inference_steps=num_inference_steps,
            guidance_scale=scale,
            num_images_per_prompt=num_images_per_prompt,
            eta=eta,
            generator=generator,
            latents=latents,
            batch_size=batch_size,
            output_type=output_type,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
        )
        self._guidance_scale = float(scale)

        start = None
        if pictures is not None:
            start = to_pixels([load_image(picture) for picture in pictures], height, width)
        vectors = image_embeds
        if vectors is None:
            heard = audio_embeds
            if sources is not None:
                heard = self.encode_audio(
                    sources, start_in_s=audio_start_in_s, length_in_s=audio_length_in_s
                )
            vectors = self.translate(torch.atleast_2d(cast(Tensor, heard)))
        vectors = torch.atleast_2d(vectors).detach().to("cpu", torch.float32)
        vectors = self._mix(vectors, weights, words, prompt_weight)

        generators = spread_generators(generator, count, num_images_per_prompt)
        each = torch.arange(count).repeat_interleave(num_images_per_prompt)
        conditions = self._told(vectors)
        negatives = None
        if negative_image_embeds is not None:
            negatives = torch.atleast_2d(negative_image_embeds).detach().to("cpu", torch.float32)
            negatives = self._told(negatives).expand(count, -1)

        requests = []
        for rows in each.split(batch_size):
            first = len(requests) * batch_size
            places = slice(first, first + len(rows))
            requests.append(
                Request(
                    embeds=conditions[rows],
                    generators=generators[places],
                    num_inference_steps=steps,
                    guidance_scale=scale,
                    height=height,
                    width=width,
                    latents=None if latents is None else latents[places],
                    negative_embeds=None if negatives is None else negatives[rows],
                    prompt=_of_rows(words, rows),
                    negative_prompt=_of_rows(unwanted, rows),
                    image=None if start is None else start.expand(count, -1, -1, -1)[rows],
                    strength=strength,
                    eta=eta,
                    noise_level=noise_level,
                )
            )
        painted = self._paint(
            requests,
            callback_on_step_end if callback_on_step_end_tensor_inputs else None,
            as_latents=output_type == "latent",
        )

        similarities = None
        images: Any = painted
        if output_type != "latent":
            shown = to_pictures(painted)
            if self.clip is not None and "image" in self.clip.modalities:
                similarities = self.compare(shown, vectors)
            if output_type == "pil":
                images = shown
            elif output_type == "np":
                images = painted.permute(0, 2, 3, 1).numpy()
        self.maybe_free_model_hooks()
        output = AudioToImageOutput(
            images=images, image_embeds=unit_norm(vectors), similarities=similarities
        )
        # Typed for the usual case; an overload for the other would repeat all the arguments.
        return output if return_dict else output.to_tuple()  # pyright: ignore[reportReturnType]

    def check_inputs(
        self,
        *,
        audios: list[AudioSource] | None,
        audio_embeds: Tensor | None,
        image_embeds: Tensor | None,
        weights: Sequence[float] | None,
        prompt: list[str] | None,
        prompt_weight: float | None,
        negative_prompt: list[str] | None,
        negative_image_embeds: Tensor | None,
        image: list[ImageSource] | None,
        strength: float,
        noise_level: int,
        height: int,
        width: int,
        num_inference_steps: int | None,
        guidance_scale: float,
        num_images_per_prompt: int,
        eta: float,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
        batch_size: int,
        output_type: str,
        callback_on_step_end_tensor_inputs: Sequence[str],
    ) -> int:
        """Refuse arguments that make no sense, before anything is computed.

        Returns:
            How many items there are.

        Raises:
            UserError: With what was wrong, what was expected and how to mend it.
        """
        sources = {"audios": audios, "audio_embeds": audio_embeds, "image_embeds": image_embeds}
        given = only_one(**sources)
        if image_embeds is not None:
            check_vectors(image_embeds, "image_embeds", self.decoder.embed_dim)
        if audio_embeds is not None:
            dim = self.translator.source_dim if self.translator is not None else None
            check_vectors(audio_embeds, "audio_embeds", dim)
        if audios is not None:
            if not audios:
                raise UserError("There are no recordings: audios is an empty list.")
            if self.clap is None or self.translator is None:
                raise UserError(
                    "Recordings need a CLAP and a translator, and this pipeline was made without: "
                    "load it with clap=... and translator=..., or give image_embeds."
                )
            ingredients = len(audios)
        else:
            ingredients = len(torch.atleast_2d(cast(Tensor, sources[given])))
        if weights is not None and len(weights) != ingredients:
            raise UserError(
                f"Expected a weight for each of the {ingredients} {given}, got {len(weights)}."
            )
        count = ingredients if weights is None else 1
        check_steps(num_inference_steps, self.scheduler)
        check_numbers(math.inf, guidance_scale=guidance_scale)
        check_numbers(1.0, strength=strength, eta=eta)
        if prompt_weight is not None:
            check_numbers(1.0, prompt_weight=prompt_weight)
        check_counts(num_images_per_prompt=num_images_per_prompt, batch_size=batch_size)
        levels = 1
        if self.decoder.kind == "stable-unclip":
            levels = self.image_noising_scheduler.config["num_train_timesteps"]
        if not isinstance(noise_level, int) or not 0 <= noise_level < levels:
            raise UserError(
                f"Expected noise_level to be from 0 to {levels - 1}, got {noise_level!r}."
            )
        if output_type not in ("pil", "np", "pt", "latent"):
            raise UserError(
                f"Expected output_type to be 'pil', 'np', 'pt' or 'latent', got {output_type!r}."
            )
        check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self._check_words(prompt, prompt_weight, negative_prompt, count)
        if negative_image_embeds is not None:
            if not self.decoder.takes_negative_embeds:
                raise UserError(
                    f"The {self.decoder.kind} decoder isn't guided away from embeddings: leave "
                    "negative_image_embeds out and use negative_prompt."
                )
            check_vectors(negative_image_embeds, "negative_image_embeds", self.decoder.embed_dim)
            check_one_or_each(negative_image_embeds, "negative_image_embeds", count)
        if image is not None:
            if not image:
                raise UserError("There are no pictures to start from: image is an empty list.")
            check_one_or_each(image, "image", count)
        for name, value in (("height", height), ("width", width)):
            if not is_count(value) or value % self.decoder.multiple:
                raise UserError(
                    f"Expected {name} to be a multiple of {self.decoder.multiple} pixels, got "
                    f"{value!r}."
                )
        check_generators(generator, count)
        shape = self.decoder.latent_shape(height, width)
        total = count * num_images_per_prompt
        check_latents(latents, (total, *shape), f"pictures of {width} x {height}")
        return count

    def _apply_ip_adapter(self) -> None:
        if self.ip_adapter is not None:
            with quietly():
                parts: Any = self.ip_adapter.by_part()
                self.load_ip_adapter(parts, subfolder="", weight_name="")

    def _check_words(
        self,
        prompt: list[str] | None,
        prompt_weight: float | None,
        negative_prompt: list[str] | None,
        count: int,
    ) -> None:
        if prompt_weight is not None and prompt is None:
            raise UserError("prompt_weight is the share of a prompt, and there is none.")
        for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
            if texts is not None:
                check_texts(texts, name)
                check_one_or_each(texts, name, count)
        if negative_prompt is not None and not self.decoder.takes_words:
            raise UserError(
                f"The {self.decoder.kind} decoder takes no words, so it can't be guided away from "
                "any: leave negative_prompt out."
            )

    def _check_sizes(self) -> None:
        dim = self.decoder.embed_dim
        for what, size in (
            ("the translator gives", self.translator and self.translator.target_dim),
            (
                "the negative embedding has",
                self.negative_embedding and self.negative_embedding.config["dim"],
            ),
            (
                "the retrieval memory has",
                self.retrieval_memory and self.retrieval_memory.config["dim"],
            ),
            ("its CLIP has", self.decoder.space and self.decoder.space.dim),
        ):
            if size and size != dim:
                raise UserError(f"The decoder takes vectors of {dim} values, {what} {size}.")
        channels = self.vae.config["latent_channels"]
        if self.unet.config["in_channels"] != channels:
            raise UserError(
                f"The UNet makes latents of {self.unet.config['in_channels']} channels, the "
                f"autoencoder takes {channels}."
            )

    def _mix(
        self,
        vectors: Tensor,
        weights: Sequence[float] | None,
        words: list[str] | None,
        prompt_weight: float | None,
    ) -> Tensor:
        """Mix what goes into one picture; vectors that nothing is mixed into stay as they are."""
        if weights is not None:
            vectors = mix_embeds(unit_norm(vectors), weights).unsqueeze(0)
        if prompt_weight is None:
            prompt_weight = 0.0 if self.decoder.takes_words else _DEFAULT_PROMPT_WEIGHT
        if words is None or not prompt_weight:
            return vectors
        read = self.encode_text(words).expand(len(vectors), -1)
        return mix_embeds([unit_norm(vectors), read], [1 - prompt_weight, prompt_weight])

    def _told(self, vectors: Tensor) -> Tensor:
        """Give what the decoder is told: what vectors call up, at the norm it was trained on."""
        if self.retrieval_memory is not None:
            vectors = self.retrieval_memory(vectors)
        norms = vectors.norm(dim=-1, keepdim=True)
        return torch.where((norms - 1).abs() < _UNIT_TOLERANCE, vectors * self.embed_norm, vectors)

    def _paint(
        self,
        requests: list[Request],
        callback: Callable[..., dict[str, Any]] | None,
        *,
        as_latents: bool,
    ) -> Tensor:
        """Paint batch after batch: pixels (n, 3, height, width), or latents, on the CPU."""

        def on_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            bar.update()
            changed = {} if callback is None else callback(self, index, timestep, tensors(latents))
            return (changed or {}).get("latents", latents)

        def tensors(latents: Tensor) -> dict[str, Tensor]:
            return {"latents": latents}

        self._num_timesteps = self.decoder.count_steps(requests[0])
        bar_of = cast(Callable[..., Any], self.progress_bar)
        painted = []
        with bar_of(total=self._num_timesteps * len(requests)) as bar:
            for request in requests:
                made = self.decoder.decode(request, on_step)
                painted.append((made if as_latents else self.decoder.to_pixels(made)).cpu())
        return torch.cat(painted)


def _of_rows(texts: list[str] | None, rows: Tensor) -> list[str] | None:
    if texts is None:
        return None
    return [texts[row if len(texts) > 1 else 0] for row in rows.tolist()]
