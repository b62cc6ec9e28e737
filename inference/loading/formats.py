"""Checkpoint formats that the pipelines load: their own, and those of published generators.

Nothing here imports torch before a checkpoint is loaded, so that a wrong one is named at once.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clip2clap.core.errors import (
    CheckpointError,
    ModelNotFoundError,
    UserError,
    one_line,
    with_article,
)
from clip2clap.core.files import as_path
from clip2clap.core.presets import COMPANIONS, Kind, resolve
from clip2clap.embeddings.checkpoint import component_class
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.compatibility import (
    PathOrId,
    check_spaces,
    encoder_space,
    translator_spaces,
)
from clip2clap.inference.loading.configs import check_settings
from clip2clap.inference.loading.files import (
    INDEX_FILE,
    explained,
    fetch_folder,
    part_names,
    read_index,
)

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.loading.components import DtypeChoice
    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

_CONDITIONS = {"generator": "a CLAP embedding", "decoder": "a CLIP image embedding"}


@dataclass
class Checkpoint:
    """Checkpoint that our own `save_pretrained` wrote: its index holds components and settings.

    `name` is a hub id or folder, `index` the content of `model_index.json`, and `access` holds
    `token` and `local_files_only`. `space` is that of the generator's embeddings, once known.
    """

    name: str
    folder: Path
    index: dict[str, Any]
    access: dict[str, Any]
    revision: str | None = None
    fetch_text_encoder: bool = True
    pipeline_class: Any = None
    space: EmbeddingSpace | None = None

    def load(
        self,
        given: dict[str, Any],
        replaced: dict[str, Any],
        *,
        torch_dtype: "DtypeChoice",
        variant: str | None = None,
        use_safetensors: bool | None = None,
        low_memory: bool = False,
    ) -> Any:
        """Load the pipeline; the spaces of all components are compared before any weights are read.

        The user may have given encoders and translators, loaded or by name, or None each, and
        components and settings that replace the checkpoint's.
        """
        from clip2clap.inference.loading.components import (
            load_components,
            load_encoders,
            part_dtypes,
        )

        cls, access, kind = self.pipeline_class, self.access, self.pipeline_class.preset_kind
        dtypes = part_dtypes(torch_dtype)
        missing = [part for part, value in given.items() if value is None]
        if type(self) is Checkpoint:
            fetch_folder(self.name, missing, kind=kind, revision=self.revision, **access)
        companions = COMPANIONS.get(self.name, {})
        defaults = {part: self._default_encoder(part, companions.get(part)) for part in missing}
        given = {**given, **defaults}
        with explained(f"The encoders of {self.name}"):
            self.space = self._space(given)
            check_spaces(given, self.space, cls.space_pairs, **access)

        places = self._places()
        for part in replaced:
            places.pop(part, None)
        folders = [name for place in places.values() for name in part_names(place)]
        fetch_folder(
            self.name, folders, kind=kind, variant=variant, revision=self.revision, **access
        )
        precomputed = {} if "negative_embedding" in replaced else self._precompute()
        options = {"variant": variant, "low_memory": low_memory}
        parts = load_components(
            self.folder, self.index, places, dtypes, use_safetensors=use_safetensors, **options
        )
        options["modalities"] = cls.encoder_modalities
        encoders = load_encoders(given, dtypes, **options, **access)
        settings = self._settings({**replaced, **parts}, encoders)
        computed = {
            name: value() if isinstance(value, partial) else value
            for name, value in settings.items()
            if name not in replaced
        }
        return cls(**{**encoders, **parts, **precomputed, **computed, **replaced})

    def _places(self) -> dict[str, str]:
        """Return the name of each component in the index, by its name in the pipeline."""
        cls = self.pipeline_class
        components, _ = cls._get_signature_keys(cls)
        return {
            part: part
            for part in components
            if part not in cls.encoder_parts
            and (component_class(self.index, part) or part not in cls._optional_components)
        }

    def _default_encoder(self, part: str, companion: str | None) -> Any:
        """Return the encoder or translator of the checkpoint, where the user gives none."""
        if component_class(self.index, part):
            return self.folder / part
        return self.index.get(f"{part}_id", companion)

    def _space(self, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the embeddings that the generator was trained on, if recorded."""
        setting = self.pipeline_class.space_setting
        space = self.index.get(setting)
        try:
            return EmbeddingSpace.from_dict(space) if space else None
        except (UserError, TypeError) as error:
            raise CheckpointError(
                f"{self.folder / INDEX_FILE}: {setting} is damaged: {one_line(error)}"
            ) from error

    def _precompute(self) -> dict[str, Any]:
        """Return components that are computed before the generator's weights are loaded."""
        return {}

    def _settings(self, parts: dict[str, Any], encoders: dict[str, Any]) -> dict[str, Any]:
        """Return the pipeline's settings and further components.

        Those that take a computation are functions, called unless the user gives the value.
        """
        _, settings = self.pipeline_class._get_signature_keys(self.pipeline_class)
        return {name: self.index[name] for name in settings if name in self.index}


class Published(Checkpoint):
    """Checkpoint of a published generator, without encoders of its own."""

    guidance_scale: ClassVar[float]
    """Default guidance scale of diffusers' pipeline."""

    parts: ClassVar[tuple[str, ...]]
    """Components beside scheduler, UNet and autoencoder."""

    def _places(self) -> dict[str, str]:
        return {part: part for part in ("scheduler", "unet", "vae", *self.parts)}

    def _default_encoder(self, part: str, companion: str | None) -> Any:
        return companion


class AudioLDM(Published):
    """Checkpoint of AudioLDM (first version)."""

    guidance_scale, parts = 2.5, ("vocoder",)

    @property
    def _has_text_encoder(self) -> bool:
        return self.fetch_text_encoder or is_clap_local(self.name, self.revision, **self.access)

    def _space(self, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the checkpoint's CLAP, by the fingerprint of its text encoder.

        If the CLAP is not on disk, return the target space recorded in the translator.

        Raises:
            CheckpointError: If the translator names another generator.
        """
        if self._has_text_encoder:
            from clip2clap.embeddings.encoders.base import read_space

            options = {"revision": self.revision, **self.access}
            return read_space(self.name, family="clap", modality="text", **options)
        target = translator_spaces(given["translator"], **self.access)[1]
        if target is not None and target.model_id not in (self.name, os.path.relpath(self.name)):
            raise CheckpointError(
                f"The translator leads to {target}. Only the text encoder's files show whether "
                f"that is the CLAP of {self.name}: use fetch_text_encoder=True."
            )
        return target

    def _precompute(self) -> dict[str, Any]:
        """Encode the empty prompt, which these generators were trained to guide away from.

        The text encoder is freed again, so it is never in memory together with the generator.
        """
        if not self._has_text_encoder:
            return {}
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

        text_encoder = ClapEncoder.from_pretrained(
            self.name, modalities=("text",), revision=self.revision, **self.access
        )
        embed = text_encoder.encode_text([""])[0]
        negative = LearnedNegativeEmbedding.from_vector(embed, origin="empty prompt")
        return {"negative_embedding": negative}

    def _settings(self, parts: dict[str, Any], encoders: dict[str, Any]) -> dict[str, Any]:
        from clip2clap.inference.schedulers import few_step_scheduler

        return {
            "scheduler": partial(few_step_scheduler, parts["scheduler"]),
            "clap_id": self.name,
            "clap_space": self.space and self.space.to_dict(),
            "clap_revision": self.revision,
            "default_guidance_scale": self.guidance_scale,
        }


class MusicLDM(AudioLDM):
    """Checkpoint of MusicLDM."""

    guidance_scale = 2.0


class PublishedDecoder(Published):
    """Checkpoint of a published image decoder."""

    kind: ClassVar[str]
    """`decoder_kind` of the pipeline."""

    parts = ("text_encoder", "tokenizer")

    def _space(self, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the CLIP that is given, which is assumed to be the decoder's."""
        return encoder_space(given["clip"], "clip", **self.access)

    def _settings(self, parts: dict[str, Any], encoders: dict[str, Any]) -> dict[str, Any]:
        from clip2clap.inference.schedulers import few_step_scheduler

        # The variance that a UNet predicts is for the scheduler that it was trained with.
        config = {**parts["scheduler"].config, "variance_type": None}
        return {
            "scheduler": partial(few_step_scheduler, config),
            "decoder_kind": self.kind,
            "clip_space": self.space and self.space.to_dict(),
            "embed_norm": partial(self._embed_norm, parts, encoders["clip"]),
            "default_guidance_scale": self.guidance_scale,
            "default_num_inference_steps": 25,
        }

    def _embed_norm(self, parts: dict[str, Any], clip: "ClipEncoder | None") -> float:
        """Compute the L2 norm of the embeddings that the decoder was trained on.

        They are outputs of its CLIP's image encoder, measured here on three images; without that
        CLIP the norm is 1.
        """
        if clip is None or "image" not in clip.modalities:
            return 1.0
        from PIL import Image
        from skimage import data

        images = [Image.fromarray(load()) for load in (data.astronaut, data.chelsea, data.coffee)]
        return float(clip.encode_image(images, normalize=False).norm(dim=1).mean())


class Kandinsky(PublishedDecoder):
    """Checkpoint of Kandinsky 2.2's decoder."""

    kind, guidance_scale, parts = "kandinsky-2-2", 4.0, ()

    def _places(self) -> dict[str, str]:
        return {**super()._places(), "vae": "movq"}

    def _settings(self, parts: dict[str, Any], encoders: dict[str, Any]) -> dict[str, Any]:
        negative = partial(_encode_zeros, encoders["clip"])
        return {**super()._settings(parts, encoders), "negative_embedding": negative}


class StableUnclip(PublishedDecoder):
    """Checkpoint of stable unCLIP, which brings its CLIP's image encoder."""

    kind, guidance_scale = "stable-unclip", 10.0
    parts = (*PublishedDecoder.parts, "image_normalizer", "image_noising_scheduler")

    def _default_encoder(self, part: str, companion: str | None) -> Any:
        return self.name if part == "clip" and companion is None else companion

    def _space(self, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the checkpoint's own CLIP.

        A whole CLIP that contains the same weights counts as the same, though its fingerprint
        differs.
        """
        clip, access = given["clip"], self.access
        named = encoder_space(clip, "clip", **access)
        if isinstance(clip, str | os.PathLike):
            from clip2clap.embeddings.checkpoint import find_checkpoint
            from clip2clap.embeddings.fingerprint import holds_weights

            whole = find_checkpoint(os.fspath(clip), "clip", **access)
            own = find_checkpoint(self.name, "clip", **access)
            if holds_weights(whole.weights, own.weights):
                return named
        return encoder_space(self.name, "clip", **access)

    def _embed_norm(self, parts: dict[str, Any], clip: "ClipEncoder | None") -> float:
        """Compute the norm from the normalizer.

        It maps to unit variance embeddings whose squared norm is `|mean|^2 + |std|^2` on average.
        """
        normalizer = parts["image_normalizer"]
        squares = normalizer.mean.float().square().sum() + normalizer.std.float().square().sum()
        return float(squares.detach().sqrt())


class StableDiffusion(PublishedDecoder):
    """Checkpoint of Stable Diffusion, to which an IP-Adapter is added."""

    kind, guidance_scale = "ip-adapter", 7.5

    def _default_encoder(self, part: str, companion: str | None) -> Any:
        if companion is None and part == "ip_adapter":
            raise UserError(
                f"{self.name} is conditioned on text alone: give ip_adapter=..., which makes it "
                "take an image embedding.",
                param="ip_adapter",
            )
        return companion


FORMATS: dict[Kind, dict[str, type[Checkpoint]]] = {
    "generator": {
        "ImageToAudioPipeline": Checkpoint,
        "AudioLDMPipeline": AudioLDM,
        "MusicLDMPipeline": MusicLDM,
    },
    "decoder": {
        "AudioToImagePipeline": Checkpoint,
        "KandinskyV22Pipeline": Kandinsky,
        "KandinskyV22Img2ImgPipeline": Kandinsky,
        "StableUnCLIPImg2ImgPipeline": StableUnclip,
        "StableDiffusionPipeline": StableDiffusion,
    },
}
"""Formats of a generator (`ImageToAudioPipeline`) and of a decoder (`AudioToImagePipeline`), by the
`_class_name` of their index."""


def open_checkpoint(
    name: PathOrId, kind: Kind, *, published_only: bool = False, **access: Any
) -> Checkpoint:
    """Read the index of a pipeline and check that its format is supported.

    `published_only` rejects folders that `save_pretrained` wrote.

    Raises:
        ModelNotFoundError: If there is no such folder or repository.
        CheckpointError: If it holds another pipeline, which is named, or none.
    """
    own, *published = FORMATS[kind]
    *others, last = published if published_only else FORMATS[kind]
    expected = f"{', '.join(others)} or {last}"
    location = resolve(os.fspath(name), kind)
    folder = fetch_folder(location, kind=kind, **access)
    index = read_index(folder, expected=f"{own}.save_pretrained, or a checkpoint of {expected}")
    check_settings(folder / INDEX_FILE, index)
    class_name = str(index.get("_class_name"))
    if class_name not in (*others, last):
        raise CheckpointError(
            f"{os.fspath(name)} holds {with_article(class_name)}; expected an {expected}, whose "
            f"UNet is conditioned on {_CONDITIONS[kind]}.",
            param=kind,
        )
    if as_path(location).is_dir():
        # Saved pipelines name it, and a relative path would look like a hub id elsewhere.
        location = str(folder.absolute())
    revision = access.pop("revision", None)
    return FORMATS[kind][class_name](location, folder, index, access, revision)


def is_clap_local(name: str | None, revision: str | None, **access: Any) -> bool:
    """Return whether a CLAP's weights are on disk, where `access` says."""
    from clip2clap.embeddings.checkpoint import find_checkpoint

    if name is None:
        return False
    try:
        find_checkpoint(name, "clap", revision=revision, **{**access, "local_files_only": True})
    except ModelNotFoundError:
        return False
    return True


def _encode_zeros(clip: "ClipEncoder | None") -> "LearnedNegativeEmbedding | None":
    """Encode an image of zeros, which Kandinsky was trained to guide away from."""
    if clip is None or "image" not in clip.modalities:
        return None
    import torch
    from PIL import Image

    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

    gray: Any = clip.preprocess("image", [Image.new("RGB", (64, 64))])[0]
    with torch.no_grad():
        zeros = {"pixel_values": torch.zeros_like(gray["pixel_values"])}
        embed = clip("image", zeros)[0].float().cpu()
    return LearnedNegativeEmbedding.from_vector(embed, origin="image of zeros")
