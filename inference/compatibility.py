"""Checks that a pipeline's components belong together: their embedding spaces and sizes."""

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, Family, Modality, require_same_model

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.translator.base import Translator

PathOrId = str | os.PathLike[str]
Spaces = tuple[EmbeddingSpace | None, EmbeddingSpace | None]

_MODALITIES: dict[Family, Modality] = {"clip": "image", "clap": "audio"}


def encoder_space(
    encoder: "ClipEncoder | ClapEncoder | PathOrId | None", family: Family, **access: Any
) -> EmbeddingSpace | None:
    """Return the space of a CLIP's image or a CLAP's audio embeddings.

    Args:
        encoder: Encoder, or its preset, hub id or folder, of which only small files are read.
        family: `"clip"` or `"clap"`.
        **access: As for `read_space`.
    """
    if encoder is None:
        return None
    if isinstance(encoder, str | os.PathLike):
        from clip2clap.embeddings.encoders.base import read_space

        modality = _MODALITIES[family]
        return read_space(os.fspath(encoder), family=family, modality=modality, **access)
    return encoder.space(_MODALITIES[family])


def translator_spaces(translator: "Translator | PathOrId | None", **access: Any) -> Spaces:
    """Return the source and target space of a translator; only its config is read."""
    if translator is None:
        return None, None
    if isinstance(translator, str | os.PathLike):
        from clip2clap.translator.checkpoint import read_config

        config = read_config(translator, **access)
        spaces = config.get("source_space"), config.get("target_space")
        source, target = (EmbeddingSpace.from_dict(space) if space else None for space in spaces)
        return source, target
    return translator.source_space, translator.target_space


def check_generator_spaces(
    encoders: Mapping[str, Any], clap: EmbeddingSpace | None, **access: Any
) -> None:
    """Check that the components of an image-to-audio pipeline share their spaces.

    Args:
        encoders: `clip`, `translator`, `ranker` and `ranker_translator`, loaded or by name.
        clap: Space of the generator's CLAP; None if unknown.
        **access: As for `read_space`.

    Raises:
        SpaceMismatchError: If two are of different encoders; both are named.
    """
    clip = encoder_space(encoders["clip"], "clip", **access)
    source, target = translator_spaces(encoders["translator"], **access)
    ranker = encoder_space(encoders["ranker"], "clap", **access)
    ranked_source, ranked_target = translator_spaces(encoders["ranker_translator"], **access)
    _check_pairs(
        (source, clip, "The translator's source is not the pipeline's CLIP"),
        (target, clap, "The translator's target is not the generator's CLAP"),
        (ranked_source, clip, "The ranker_translator's source is not the pipeline's CLIP"),
        (ranked_target, ranker, "The ranker_translator's target is not the ranker"),
    )


def check_decoder_spaces(
    encoders: Mapping[str, Any], decoder: EmbeddingSpace | None, **access: Any
) -> None:
    """Check that the components of an audio-to-image pipeline share their spaces.

    Args:
        encoders: `clap`, `translator` and `clip`, loaded or by name.
        decoder: Space of the decoder's CLIP; None if unknown.
        **access: As for `read_space`.

    Raises:
        SpaceMismatchError: If two are of different encoders; both are named.
    """
    source, target = translator_spaces(encoders["translator"], **access)
    clap = encoder_space(encoders["clap"], "clap", **access)
    clip = encoder_space(encoders["clip"], "clip", **access)
    _check_pairs(
        (source, clap, "The translator's source is not the pipeline's CLAP"),
        (decoder, target, "The translator's target is not the decoder's CLIP"),
        (decoder, clip, "The pipeline's CLIP is not the decoder's"),
        (target, clip, "The translator's target is not the pipeline's CLIP"),
    )


def _check_pairs(*pairs: tuple[EmbeddingSpace | None, EmbeddingSpace | None, str]) -> None:
    for expected, got, what in pairs:
        if expected is not None and got is not None:
            require_same_model(expected, got, what=what)


def check_dims(what: str, dim: int, sizes: Iterable[tuple[str, Any]]) -> None:
    """Check that components have the embedding dimension of a generator.

    Args:
        what: Name of the generator, for the message.
        dim: Its embedding dimension.
        sizes: Components and their dimensions; those without one are not checked.

    Raises:
        UserError: If one differs; both dimensions are named.
    """
    for component, size in sizes:
        if size and size != dim:
            raise UserError(f"{what} expects embeddings of {dim} values, {component} {size}.")


def check_channels(unet: Any, vae: Any) -> None:
    """Raise a `UserError` unless UNet and autoencoder have the same number of latent channels."""
    channels, expected = unet.config["in_channels"], vae.config["latent_channels"]
    if channels != expected:
        raise UserError(
            f"The UNet generates latents of {channels} channels, the VAE expects {expected}."
        )
