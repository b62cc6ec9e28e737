"""Checkpoint formats that the pipelines load: their own, and those of published generators."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.inference.compatibility import encoder_space, translator_spaces
from clip2clap.inference.generator_clap import is_clap_local
from clip2clap.inference.loading.files import component_class
from clip2clap.inference.schedulers import few_step_scheduler

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

_PUBLISHED_STEPS = 25


@dataclass
class Source:
    """A pipeline's checkpoint."""

    pipeline_class: Any
    """Class of the pipeline to load."""

    name: str
    """Hub id or folder."""

    folder: Path
    """Local folder."""

    index: dict[str, Any]
    """Content of `model_index.json`."""

    access: dict[str, Any] = field(default_factory=dict)
    """`token` and `local_files_only`."""

    revision: str | None = None
    """Branch, tag or commit on the hub."""

    fetch_text_encoder: bool = True
    """Whether the text encoder of an AudioLDM checkpoint may be downloaded."""


class SavedFormat:
    """Format that our own `save_pretrained` writes: the index holds components and settings."""

    def places(self, source: Source) -> dict[str, str]:
        """Return the name of each component in the index, by its name in the pipeline."""
        cls = source.pipeline_class
        components, _ = cls._get_signature_keys(cls)
        return {
            part: part
            for part in components
            if part not in cls.encoder_parts
            and (component_class(source.index, part) or part not in cls._optional_components)
        }

    def default_encoder(self, source: Source, part: str, companion: str | None) -> Any:
        """Return the encoder or translator of the checkpoint, where the user gives none."""
        if component_class(source.index, part):
            return source.folder / part
        return source.index.get(f"{part}_id", companion)

    def space(self, source: Source, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the embeddings that the generator was trained on, if recorded."""
        space = source.index.get(source.pipeline_class.space_setting)
        return EmbeddingSpace.from_dict(space) if space else None

    def precompute(self, source: Source) -> dict[str, Any]:
        """Return components that are computed before the generator's weights are loaded."""
        return {}

    def settings(
        self,
        source: Source,
        parts: dict[str, Any],
        encoders: dict[str, Any],
        space: EmbeddingSpace | None,
    ) -> dict[str, Any]:
        """Return the pipeline's settings, and components that are computed."""
        _, settings = source.pipeline_class._get_signature_keys(source.pipeline_class)
        return {name: source.index[name] for name in settings if name in source.index}


@dataclass(frozen=True)
class AudioLDMFormat(SavedFormat):
    """Format of an AudioLDM (first version) or MusicLDM checkpoint."""

    guidance_scale: float
    """Default guidance scale of diffusers' pipeline."""

    def places(self, source: Source) -> dict[str, str]:
        """Return the name of each component in the index, by its name in the pipeline."""
        return {part: part for part in ("scheduler", "unet", "vae", "vocoder")}

    def default_encoder(self, source: Source, part: str, companion: str | None) -> Any:
        """Return None: the checkpoint has neither a CLIP nor a translator."""
        return None

    def space(self, source: Source, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the space of the checkpoint's CLAP, by the fingerprint of its text encoder.

        If the CLAP is not on disk, return the target space recorded in the translator.

        Raises:
            CheckpointError: If the translator names another generator.
        """
        if self._has_text_encoder(source):
            from clip2clap.embeddings.encoders.base import read_space

            return read_space(
                source.name,
                family="clap",
                modality="text",
                revision=source.revision,
                **source.access,
            )
        target = translator_spaces(given["translator"], **source.access)[1]
        if target is not None and target.model_id != source.name:
            raise CheckpointError(
                f"The translator leads to {target}. Only the text encoder's files show whether "
                f"that is the CLAP of {source.name}: use fetch_text_encoder=True."
            )
        return target

    def settings(
        self,
        source: Source,
        parts: dict[str, Any],
        encoders: dict[str, Any],
        space: EmbeddingSpace | None,
    ) -> dict[str, Any]:
        """Return the pipeline's settings and the few-step scheduler."""
        return {
            "scheduler": few_step_scheduler(parts["scheduler"]),
            "clap_id": source.name,
            "clap_space": space and space.to_dict(),
            "clap_revision": source.revision,
            "default_guidance_scale": self.guidance_scale,
        }

    def _has_text_encoder(self, source: Source) -> bool:
        return source.fetch_text_encoder or is_clap_local(source.name, source.revision)

    def precompute(self, source: Source) -> dict[str, Any]:
        """Encode the empty prompt, which these generators were trained to guide away from.

        The text encoder is freed again, so it is never in memory together with the generator.
        """
        if not self._has_text_encoder(source):
            return {}
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

        text_encoder = ClapEncoder.from_pretrained(
            source.name, modalities=("text",), revision=source.revision, **source.access
        )
        embedding = text_encoder.encode_text([""])[0]
        return {
            "negative_embedding": LearnedNegativeEmbedding.from_vector(
                embedding, origin="empty prompt"
            )
        }


@dataclass(frozen=True)
class DecoderFormat(SavedFormat):
    """Format of a published image decoder."""

    kind: str
    """`decoder_kind` of the pipeline."""

    guidance_scale: float
    """Default guidance scale of diffusers' pipeline."""

    parts: tuple[str, ...] = ()
    """Components beside scheduler, UNet and autoencoder."""

    vae: str = "vae"
    """Name of the autoencoder."""

    def places(self, source: Source) -> dict[str, str]:
        """Return the name of each component in the index, by its name in the pipeline."""
        plain = {part: part for part in ("scheduler", "unet", *self.parts)}
        return {**plain, "vae": self.vae}

    def default_encoder(self, source: Source, part: str, companion: str | None) -> Any:
        """Return the checkpoint that the preset names; stable unCLIP brings its own CLIP.

        Raises:
            UserError: If Stable Diffusion lacks an IP-Adapter.
        """
        if companion is None and part == "ip_adapter" and self.kind == "ip-adapter":
            raise UserError(
                f"{source.name} is conditioned on text alone: give ip_adapter=..., which makes it "
                "take an image embedding.",
                param="ip_adapter",
            )
        own_clip = part == "clip" and self.kind == "stable-unclip"
        return source.name if own_clip and companion is None else companion

    def space(self, source: Source, given: dict[str, Any]) -> EmbeddingSpace | None:
        """Return the CLIP space that a published decoder was trained on.

        Stable unCLIP brings its CLIP's image encoder. A whole CLIP that contains the same weights
        counts as the same, though its fingerprint differs. The other decoders bring none: the CLIP
        that is given for them is assumed to be theirs.
        """
        clip, access = given["clip"], source.access
        named = encoder_space(clip, "clip", **access)
        if self.kind != "stable-unclip":
            return named
        if isinstance(clip, str | os.PathLike):
            from clip2clap.embeddings.checkpoint import find_checkpoint
            from clip2clap.embeddings.fingerprint import holds_weights

            whole = find_checkpoint(os.fspath(clip), "clip", **access)
            own = find_checkpoint(source.name, "clip", **access)
            if holds_weights(whole.weights, own.weights):
                return named
        return encoder_space(source.name, "clip", **access)

    def settings(
        self,
        source: Source,
        parts: dict[str, Any],
        encoders: dict[str, Any],
        space: EmbeddingSpace | None,
    ) -> dict[str, Any]:
        """Return the pipeline's settings, the few-step scheduler and the negative embedding."""
        # The variance that a UNet predicts is for the scheduler that it was trained with.
        config = {**parts["scheduler"].config, "variance_type": None}
        clip = encoders["clip"]
        settings: dict[str, Any] = {
            "scheduler": few_step_scheduler(config),
            "decoder_kind": self.kind,
            "clip_space": space and space.to_dict(),
            "embed_norm": self._embed_norm(parts, clip),
            "default_guidance_scale": self.guidance_scale,
            "default_num_inference_steps": _PUBLISHED_STEPS,
        }
        if self.kind == "kandinsky-2-2":
            settings["negative_embedding"] = _zero_image(clip)
        return settings

    def _embed_norm(self, parts: dict[str, Any], clip: "ClipEncoder | None") -> float:
        """Compute the L2 norm of the embeddings that the decoder was trained on.

        Stable unCLIP's normalizer maps to unit variance embeddings whose squared norm is
        `|mean|^2 + |std|^2` on average. The others were trained on outputs of their CLIP's image
        encoder, measured here on three images; without that CLIP the norm is 1.
        """
        if self.kind == "stable-unclip":
            normalizer = parts["image_normalizer"]
            squares = normalizer.mean.float().square().sum() + normalizer.std.float().square().sum()
            return float(squares.detach().sqrt())
        if clip is None or "image" not in clip.modalities:
            return 1.0
        from PIL import Image
        from skimage import data

        images = [Image.fromarray(load()) for load in (data.astronaut, data.chelsea, data.coffee)]
        return float(clip.encode_image(images, normalize=False).norm(dim=1).mean())


def _zero_image(clip: "ClipEncoder | None") -> "LearnedNegativeEmbedding | None":
    """Encode an image of zeros, which Kandinsky was trained to guide away from."""
    if clip is None or "image" not in clip.modalities:
        return None
    from PIL import Image

    from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

    gray = clip.preprocess("image", [Image.new("RGB", (64, 64))])[0]
    pixels = torch.zeros_like(cast(dict[str, Tensor], gray)["pixel_values"])
    with torch.no_grad():
        vector = clip("image", {"pixel_values": pixels})[0].float().cpu()
    return LearnedNegativeEmbedding.from_vector(vector, origin="image of zeros")


_KANDINSKY = DecoderFormat("kandinsky-2-2", 4.0, vae="movq")
_TEXT_PARTS = ("text_encoder", "tokenizer")
_UNCLIP_PARTS = (*_TEXT_PARTS, "image_normalizer", "image_noising_scheduler")

GENERATOR_FORMATS: dict[str, SavedFormat] = {
    "ImageToAudioPipeline": SavedFormat(),
    "AudioLDMPipeline": AudioLDMFormat(2.5),
    "MusicLDMPipeline": AudioLDMFormat(2.0),
}
"""Formats that `ImageToAudioPipeline` loads, by the `_class_name` of their index."""

DECODER_FORMATS: dict[str, SavedFormat] = {
    "AudioToImagePipeline": SavedFormat(),
    "KandinskyV22Pipeline": _KANDINSKY,
    "KandinskyV22Img2ImgPipeline": _KANDINSKY,
    "StableUnCLIPImg2ImgPipeline": DecoderFormat("stable-unclip", 10.0, _UNCLIP_PARTS),
    "StableDiffusionPipeline": DecoderFormat("ip-adapter", 7.5, _TEXT_PARTS),
}
"""Formats that `AudioToImagePipeline` loads, by the `_class_name` of their index."""
