"""Whether the parts of a pipeline fit together: their sizes, and the spaces they speak in."""

import os
from typing import Any

from diffusers import UNet2DConditionModel
from transformers import SpeechT5HifiGan

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.checkpoint import (
    ModelNotFoundError,
    find_checkpoint,
)
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import EmbeddingSpace, require_same_model
from clip2clap.models.autoencoders import Autoencoder, vae_scale_factor
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.retrieval_memory import RetrievalMemory
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config

PathOrId = str | os.PathLike[str]


def check_sizes(
    unet: UNet2DConditionModel,
    vae: Autoencoder,
    vocoder: SpeechT5HifiGan | SpectralVocoder,
    translator: Translator | None,
    negative_embedding: LearnedNegativeEmbedding | None,
    retrieval_memory: RetrievalMemory | None,
    clap_space: dict[str, Any] | None,
) -> None:
    """Refuse parts whose sizes don't fit together.

    Raises:
        UserError: With both sizes.
    """
    if unet.config["class_embed_type"] != "simple_projection":
        raise UserError(
            "The UNet takes no CLAP vector as class labels (class_embed_type is "
            f"{unet.config['class_embed_type']!r}, expected 'simple_projection'): it is not an "
            "AudioLDM 1 or MusicLDM UNet."
        )
    dim = unet.config["projection_class_embeddings_input_dim"]
    for what, size in (
        ("the translator gives", translator and translator.target_dim),
        ("the negative embedding has", negative_embedding and negative_embedding.config["dim"]),
        ("the retrieval memory has", retrieval_memory and retrieval_memory.config["dim"]),
        ("the generator's CLAP has", clap_space and clap_space["dim"]),
    ):
        if size and size != dim:
            raise UserError(f"The UNet takes vectors of {dim} values, {what} {size}.")
    if unet.config["in_channels"] != vae.config["latent_channels"]:
        raise UserError(
            f"The UNet makes latents of {unet.config['in_channels']} channels, the VAE takes "
            f"{vae.config['latent_channels']}."
        )
    if vocoder.config.model_in_dim % vae_scale_factor(vae):
        raise UserError(
            f"The vocoder's {vocoder.config.model_in_dim} frequency bins can't be divided by the "
            f"VAE's scale factor {vae_scale_factor(vae)}."
        )


def clap_on_disk(name: str, *, revision: str | None) -> bool:
    """Tell whether a CLAP's weights can be had without a download."""
    try:
        find_checkpoint(name, "clap", revision=revision, local_files_only=True)
    except ModelNotFoundError:
        return False
    return True


def clip_space(clip: ClipEncoder | PathOrId | None, **access: Any) -> EmbeddingSpace | None:
    """Give the space of a CLIP's picture embeddings; where it is only named, it isn't loaded."""
    if clip is None:
        return None
    if isinstance(clip, str | os.PathLike):
        return read_space(os.fspath(clip), family="clip", modality="image", **access)
    return clip.space("image")


def ranker_space(ranker: ClapEncoder | PathOrId | None, **access: Any) -> EmbeddingSpace | None:
    """Give the space of a CLAP's sound embeddings; where it is only named, it isn't loaded."""
    if ranker is None:
        return None
    if isinstance(ranker, str | os.PathLike):
        return read_space(os.fspath(ranker), family="clap", modality="audio", **access)
    return ranker.space("audio")


def translator_spaces(
    translator: Translator | PathOrId | None, **access: Any
) -> tuple[EmbeddingSpace | None, EmbeddingSpace | None]:
    """Give where a translator leads from and to; nothing but its config is read."""
    if translator is None:
        return None, None
    if isinstance(translator, str | os.PathLike):
        config = read_config(translator, **access)
        source, target = config.get("source_space"), config.get("target_space")
        return (
            EmbeddingSpace.from_dict(source) if source else None,
            EmbeddingSpace.from_dict(target) if target else None,
        )
    return translator.source_space, translator.target_space


def check_spaces(
    *,
    clip: EmbeddingSpace | None,
    clap: EmbeddingSpace | None,
    translator: tuple[EmbeddingSpace | None, EmbeddingSpace | None],
    ranker: EmbeddingSpace | None,
    ranker_translator: tuple[EmbeddingSpace | None, EmbeddingSpace | None],
) -> None:
    """Refuse parts that were made for different encoders; what is not known is not compared.

    Raises:
        SpaceMismatchError: Naming both encoders.
    """
    pairs = (
        (translator[0], clip, "The translator's source is not the pipeline's CLIP"),
        (translator[1], clap, "The translator's target is not the generator's CLAP"),
        (ranker_translator[0], clip, "The ranker's translator is not from the pipeline's CLIP"),
        (ranker_translator[1], ranker, "The ranker's translator does not lead to the ranker"),
    )
    for expected, got, what in pairs:
        if expected is not None and got is not None:
            require_same_model(expected, got, what=what)


def space_by_name(
    name: str, translator: tuple[EmbeddingSpace | None, EmbeddingSpace | None]
) -> EmbeddingSpace | None:
    """Take the translator's word for the generator's CLAP, whose files are not on disk.

    Raises:
        CheckpointError: If the translator names another generator.
    """
    target = translator[1]
    if target is not None and target.model_id != name:
        raise CheckpointError(
            f"The translator leads to {target}. Whether that is the CLAP of {name} can't be told "
            "without its text encoder's files: use fetch_text_encoder=True."
        )
    return target


def check_painting_spaces(
    clap: ClapEncoder | PathOrId | None,
    translator: Translator | PathOrId | None,
    clip: ClipEncoder | PathOrId | None,
    decoder: EmbeddingSpace | None,
    **access: Any,
) -> None:
    """Refuse parts that were made for different encoders; what is not known is not compared.

    Raises:
        SpaceMismatchError: Naming both encoders.
    """
    source, target = translator_spaces(translator, **access)
    hears, sees = ranker_space(clap, **access), clip_space(clip, **access)
    for expected, got, what in (
        (source, hears, "The translator's source is not the pipeline's CLAP"),
        (decoder, target, "The translator's target is not the decoder's CLIP"),
        (decoder, sees, "The pipeline's CLIP is not the decoder's"),
        (target, sees, "The translator's target is not the pipeline's CLIP"),
    ):
        if expected is not None and got is not None:
            require_same_model(expected, got, what=what)
