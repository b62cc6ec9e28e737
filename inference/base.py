"""Base of the two pipelines: everything that both directions share."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from diffusers.pipelines import pipeline_loading_utils
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils import BaseOutput
from torch import Tensor

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.core.hub import quiet
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.arguments import (
    ACCESS_OPTIONS,
    LOADING_OPTIONS,
    as_generators,
    as_python,
    refuse_unknown,
)
from clip2clap.inference.call_checks import check_finite
from clip2clap.inference.card import CardedPipeline
from clip2clap.inference.compatibility import PathOrId, check_sizes, check_spaces
from clip2clap.inference.denoising import LatentDiffusion, Request, Tensors, running
from clip2clap.inference.inputs import (
    AudioSource,
    ImageSource,
    as_list,
    check_embeds,
    read_audio,
    read_images,
)
from clip2clap.inference.interruption import Interruptible
from clip2clap.inference.loading.components import DtypeChoice
from clip2clap.inference.loading.formats import open_checkpoint
from clip2clap.metrics.classification import nearest_labels

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
    from clip2clap.models.retrieval_memory import RetrievalMemory
    from clip2clap.translator.base import Translator

# Components that diffusers saves and loads beside its own.
_LOADABLE = {
    name: ["save_pretrained", "from_pretrained"]
    for name in (
        "ClapEncoder",
        "ClipEncoder",
        "IPAdapterWeights",
        "LearnedNegativeEmbedding",
        "PatchAutoencoder",
        "SpectralVocoder",
        "Translator",
    )
}
pipeline_loading_utils.LOADABLE_CLASSES["clip2clap"] = _LOADABLE
pipeline_loading_utils.ALL_IMPORTABLE_CLASSES.update(_LOADABLE)

_DEFAULT_BATCH_SIZE = 8
_READ_AT_ONCE = 64
_LISTS = ("images", "audios", "image", "prompt", "negative_prompt")


class TranslatorPipeline(Interruptible, CardedPipeline):
    """Base of pipelines that condition a diffusion model on translated embeddings."""

    preset_kind: ClassVar[Any]
    """Preset type of the checkpoints."""

    space_setting: ClassVar[str]
    """Setting that holds the space of the generator's embeddings."""

    encoder_parts: ClassVar[tuple[str, ...]]
    """Components before the generator, which are loaded in float32 unless named."""

    encoder_modalities: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Modalities of an encoder that are needed, where not all are."""

    space_pairs: ClassVar[Sequence[tuple[str, str, str]]]
    """Spaces that must be of one encoder, see `check_spaces`."""

    label_template: ClassVar[str]
    """Prompt of a label for `nearest_labels`."""

    diffusion: LatentDiffusion
    _access: Mapping[str, Any] = {}
    _low_memory = False
    _given: Mapping[str, Any] = {}
    clip: "ClipEncoder | None"
    translator: "Translator | None"
    negative_embedding: "LearnedNegativeEmbedding | None"
    retrieval_memory: "RetrievalMemory | None"
    unet: Any
    vae: Any
    scheduler: Any

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: PathOrId,
        *,
        torch_dtype: DtypeChoice = "auto",
        low_memory: bool = False,
        **options: Any,
    ) -> Self:
        """Load a pipeline, or the generator of a published checkpoint.

        The spaces of all components are compared before any weights are read, and every
        component's weights must be complete.

        Args:
            pretrained_model_name_or_path: `"demo"`, another preset, a hub id or a folder: what
                `save_pretrained` wrote; for `ImageToAudioPipeline` also an AudioLDM (first version)
                or MusicLDM checkpoint; for `AudioToImagePipeline` one of Kandinsky 2.2's decoder,
                of stable unCLIP, or of Stable Diffusion, to which an IP-Adapter is added.
            torch_dtype: Dtype of UNet, autoencoder, vocoder and text encoder: a dtype, a dict by
                component (with `"default"` for the rest), None for float32, or `"auto"`:
                `fastest_dtype()`, for the vocoder only in wide layers (`"vocoder.resblocks"`).
                CLIP, CLAP and translators stay in float32 unless named.
            low_memory: Leave the weights in their safetensors files, from which each layer maps
                its own while it runs, and generate one output at a time (`batch_size`). The output
                is the same; such a pipeline cannot be saved.
            **options: Replacements of what is saved: components by their names (a `scheduler`; a
                `translator`, `clip`, `clap`, `ranker`, `ranker_translator` or `ip_adapter`, each
                loaded or as a preset, hub id or folder) and settings such as `embed_norm`. For
                Kandinsky and an IP-Adapter, `clip` defines the embeddings' space and norm and, for
                Kandinsky, the negative embedding; an IP-Adapter on the hub is
                OWNER/REPOSITORY/PATH. Further options as in diffusers: `variant` of the weights,
                such as `"fp16"` (a component without it is loaded from its plain weights),
                `use_safetensors`, `revision`, `token`, `cache_dir` and `local_files_only`.

        Raises:
            SpaceMismatchError: If two components are of different encoders.
            CheckpointError: If it is another pipeline, or files or weights are missing, damaged or
                do not match; they are named.
            UserError: If an option is unknown; what to use instead is named.
        """
        name = pretrained_model_name_or_path
        components, settings = cls._get_signature_keys(cls)
        published_only = options.pop("published_only", False)
        fetch_text_encoder = options.pop("fetch_text_encoder", True)
        known = {*components, *settings, *LOADING_OPTIONS}
        refuse_unknown(options, known, where=f"{cls.__name__}.from_pretrained")
        options = {key: value for key, value in options.items() if value is not None}
        given = {part: options.pop(part, None) for part in cls.encoder_parts}
        replaced = {part: options.pop(part) for part in options.keys() & {*components, *settings}}
        access = {key: options.pop(key) for key in ACCESS_OPTIONS if key in options}
        checkpoint = open_checkpoint(name, cls.preset_kind, published_only=published_only, **access)
        checkpoint.pipeline_class = cls
        checkpoint.fetch_text_encoder = fetch_text_encoder
        pipeline = checkpoint.load(
            given, replaced, torch_dtype=torch_dtype, low_memory=low_memory, **options
        )
        pipeline.register_to_config(_name_or_path=os.fspath(name))
        pipeline._access, pipeline._low_memory = checkpoint.access, low_memory
        pipeline._given = {cls.preset_kind: name, **given}
        return pipeline

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **replaced: Any) -> Self:
        """Create a pipeline from another's components and settings; no weights are copied.

        Args:
            pipeline: Pipeline of this class, or of diffusers with the components that are needed.
            **replaced: Components and settings that replace its own.

        Raises:
            UserError: If it lacks a component that is not given, or an argument is unknown.
        """
        components, settings = cls._get_signature_keys(cls)
        refuse_unknown(replaced, {*components, *settings}, where=f"{cls.__name__}.from_pipe")
        values = {**pipeline.config, **pipeline.components, **replaced}
        missing = set(components) - values.keys() - set(cls._optional_components)
        if missing:
            raise UserError(
                f"The {type(pipeline).__name__} has no {', '.join(sorted(missing))}, which a "
                f"{cls.__name__} needs: give {'it' if len(missing) == 1 else 'them'} as arguments.",
                param="pipeline",
            )
        arguments = {name: values.get(name) for name in components}
        arguments |= {name: values[name] for name in settings if name in values}
        created = cls(**arguments)
        if (name := pipeline.config.get("_name_or_path")) is not None:
            created.register_to_config(_name_or_path=name)
        for name in ("_access", "_given", "_low_memory"):
            setattr(created, name, getattr(pipeline, name, getattr(cls, name)))
        return created

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast all components, as `DiffusionPipeline.to` does."""
        with quiet():
            return super().to(*args, **kwargs)

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the current or last call."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of UNet timesteps per batch of the current or last call."""
        return self._num_timesteps

    @property
    def generator_space(self) -> EmbeddingSpace | None:
        """Space of the embeddings that the generator is conditioned on; None if unknown."""
        space = self.config[self.space_setting]
        return EmbeddingSpace.from_dict(space) if space else None

    @property
    def embed_dim(self) -> int:
        """Dimension of the CLAP or CLIP embeddings that the generator is conditioned on."""
        return self.diffusion.embed_dim

    def encode_image(self, images: ImageSource | Sequence[ImageSource]) -> Tensor:
        """Encode images with the pipeline's CLIP.

        Args:
            images: Files, http(s) URLs, bytes or PIL images, one or many.

        Returns:
            CLIP embeddings, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If the pipeline has no CLIP, or an image is unreadable (it is named).
        """
        if self.clip is None or "image" not in self.clip.modalities:
            raise UserError(
                "Encoding images needs a CLIP, and this pipeline has none: load it with clip=..."
            )
        sources = cast(list[ImageSource], as_list(images))
        return torch.cat(
            [
                self.clip.encode_image(read_images(sources, start, start + _READ_AT_ONCE))
                for start in range(0, len(sources), _READ_AT_ONCE)
            ]
        )

    def encode_audio(
        self,
        audios: AudioSource | Sequence[AudioSource],
        *,
        start_in_s: float = 0.0,
        length_in_s: float | None = None,
    ) -> Tensor:
        """Encode audio with the pipeline's CLAP.

        Args:
            audios: Files, bytes, or pairs of a mono waveform and its sampling rate, one or many.
            start_in_s: Start of the excerpt to encode, in seconds.
            length_in_s: Length of the excerpt, in seconds; None for all.

        Returns:
            CLAP embeddings, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If the pipeline has no CLAP with an audio encoder, or a source is unreadable
                (it is named).
        """
        encoder = self._audio_encoder()
        sources = cast(list[AudioSource], as_list(audios))
        return encoder.encode_audio(read_audio(sources, start_in_s, length_in_s))

    @abstractmethod
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Encode texts into the generator's space, shape (n, d), float32, unit norm."""

    @torch.no_grad()
    def translate(
        self,
        embeds: Tensor,
        *,
        generator: torch.Generator | int | Sequence[torch.Generator | int] | None = None,
    ) -> Tensor:
        """Translate embeddings into the generator's space.

        Args:
            embeds: Embeddings of the translator's source space, shape (n, d).
            generator: Generator or seed for a translator that samples, one for all or one per
                embedding.

        Returns:
            Embeddings of the generator's space, shape (n, d), float32, unit norm, on the CPU.

        Raises:
            UserError: If the pipeline has no translator, or the shape is wrong.
        """
        embeds = as_python("image_embeds", embeds)
        return self._translate(embeds, self.translator, as_generators(generator))

    def rank(self, candidates: Any, embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Compare generated candidates with the embeddings they were generated for.

        Args:
            candidates: Outputs of the pipeline, an item's candidates side by side.
            embeds: Embedding of each item, in the space of the encoder that ranks, shape (n, d).

        Returns:
            Index of each item's best candidate, shape (n,), of equals the first, and cosine
            similarities, shape (n, k).

        Raises:
            UserError: If the pipeline has no encoder for its outputs, or the shapes do not match.
        """
        encoded = self._encode_outputs(candidates)
        if len(encoded) % len(embeds) or encoded.shape[1] != embeds.shape[1]:
            raise UserError(
                "Expected candidates of shape (n * k, d) and embeds of shape (n, d), got "
                f"{tuple(encoded.shape)} and {tuple(embeds.shape)}.",
                param="embeds",
            )
        grouped = encoded.view(len(embeds), -1, encoded.shape[1]).float()
        targets = embeds.to(grouped).unsqueeze(1)
        similarities = torch.nn.functional.cosine_similarity(grouped, targets, dim=-1)
        return similarities.argmax(dim=1), similarities

    def nearest_labels(
        self, embeds: Tensor, labels: Sequence[str], *, template: str | None = None
    ) -> list[list[tuple[str, float]]]:
        """Compare embeddings of the generator's space with text labels.

        Args:
            embeds: Embeddings, shape (n, d), such as those of the output.
            labels: Labels to compare with.
            template: Prompt of a label; the pipeline's `label_template` if None.

        Returns:
            Labels with their cosine similarities for each embedding, the nearest first.

        Raises:
            UserError: If the pipeline has no text encoder.
        """
        template = template or self.label_template
        text_embeds = self.encode_text([template.format(label) for label in labels])
        return nearest_labels(embeds, text_embeds, labels)

    def retrieve(self, embeds: Tensor) -> Tensor:
        """Pull conditions towards the retrieval memory, if the pipeline has one."""
        return embeds if self.retrieval_memory is None else self.retrieval_memory(embeds)

    @abstractmethod
    def _audio_encoder(self) -> "ClapEncoder":
        """Return the CLAP that encodes audio, or raise a `UserError`."""

    @abstractmethod
    def _encode_outputs(self, outputs: Any) -> Tensor:
        """Encode outputs of the pipeline, shape (n, d)."""

    def _translate(
        self, embeds: Tensor, translator: "Translator | None", generator: Any = None
    ) -> Tensor:
        if translator is None:
            raise UserError(
                "Translating needs a translator, and this pipeline has none: load it with "
                "translator=..."
            )
        check_embeds(embeds, "embeds", translator.source_dim)
        moved = torch.atleast_2d(embeds).to(self._execution_device)
        sampled = translator.sample(moved, generator=generator).squeeze(1)
        if not sampled.isfinite().all():
            raise CheckpointError(
                "The translator returned values that are not finite: its weights are damaged."
            )
        return sampled.to("cpu", torch.float32)

    def _register(self, arguments: Mapping[str, Any]) -> None:
        """Register the arguments of `__init__`: components, and settings of the config."""
        components, _ = self._get_signature_keys(type(self))
        values = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
        self.register_modules(**{k: v for k, v in values.items() if k in components})
        self.register_to_config(**{k: v for k, v in values.items() if k not in components})

    def _check_components(self, what: str, encoder: str) -> None:
        encoders = {part: getattr(self, part) for part in self.encoder_parts}
        check_spaces(encoders, self.generator_space, self.space_pairs)
        check_sizes(self, what, (encoder, self.generator_space))

    def _prepare_call(self, arguments: Mapping[str, Any]) -> SimpleNamespace:
        """Return a call's arguments, with defaults filled in and single items as lists."""
        batch_size = 1 if self._low_memory else _DEFAULT_BATCH_SIZE
        defaults = {"batch_size": batch_size, "image": None, "guidance_interval": (0.0, 1.0)}
        defaults |= {"callback_on_step_end_tensor_inputs": ("latents",), "start_strength": None}
        call = {k: as_python(k, v) for k, v in arguments.items() if k not in ("self", "unknown")}
        refuse_unknown(arguments["unknown"], call, where=f"A call of {type(self).__name__}")
        call["generator"] = as_generators(call["generator"])
        call |= {name: as_list(call[name]) for name in call.keys() & set(_LISTS)}
        if call["latents"] is not None and call["num_candidates"] is None:
            call["num_candidates"] = 1
        for name in [name for name, value in call.items() if value is None]:
            call[name] = self.config.get(f"default_{name}", defaults.get(name))
        self._guidance_scale = call["guidance_scale"]
        call["interrupts"] = self._interrupts
        return SimpleNamespace(**defaults | call)

    def _generate(self, request: Request, decode: Callable[[Tensor], Tensor]) -> Tensor:
        """Generate batch by batch, with a progress bar and the user's callback.

        Args:
            request: Request for all outputs.
            decode: Decodes a batch's latents.

        Returns:
            The decoded outputs of all batches, joined, on the CPU.
        """
        call = request.call
        callback, names = call.callback_on_step_end, call.callback_on_step_end_tensor_inputs
        check_interrupts = self._interruption_check(call.interrupts)

        def on_step(index: int, timestep: Tensor, tensors: Tensors) -> Tensors:
            bar.update()
            changed = {}
            if callback is not None:
                chosen = {name: tensors.get(name) for name in names}
                changed = callback(self, index, timestep, chosen) or {}
            check_interrupts()
            return {name: value for name, value in changed.items() if name in tensors}

        self._num_timesteps = len(self.diffusion.schedule(call)[1])
        batches = request.split(call.batch_size)
        total = self._num_timesteps * len(batches)
        decoded = []
        with self.progress_bar(total=total) as bar:  # pyright: ignore[reportAttributeAccessIssue]
            for batch in batches:
                check_interrupts()
                latents = check_finite(self.diffusion.generate(batch, on_step), self, call)
                with running("autoencoder or vocoder"):
                    decoded.append(decode(latents).cpu())
        return check_finite(torch.cat(decoded), self, call)

    def _finish(self, output: BaseOutput, call: Any) -> Any:
        """Free the offloaded models and return the output as the call wants it."""
        self.maybe_free_model_hooks()
        return output if call.return_dict else output.to_tuple()
