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

    Of an encoder that is given by name only small files are read.
    """
    if encoder is None:
        return None
    modality = _MODALITIES[family]
    if not isinstance(encoder, str | os.PathLike):
        return encoder.space(modality)
    from clip2clap.embeddings.encoders.base import read_space

    return read_space(os.fspath(encoder), family=family, modality=modality, **access)


def translator_spaces(translator: "Translator | PathOrId | None", **access: Any) -> Spaces:
    """Return the source and target space of a translator; only its config is read."""
    if translator is None:
        return None, None
    if not isinstance(translator, str | os.PathLike):
        return translator.source_space, translator.target_space
    from clip2clap.translator.checkpoint import read_config

    config = read_config(translator, **access)
    spaces = config.get("source_space"), config.get("target_space")
    source, target = (EmbeddingSpace.from_dict(space) if space else None for space in spaces)
    return source, target


def check_spaces(
    encoders: Mapping[str, Any],
    generator: EmbeddingSpace | None,
    pairs: Iterable[tuple[str, str, str]],
    **access: Any,
) -> None:
    """Raise a `SpaceMismatchError` unless the components of a pipeline share their spaces.

    Args:
        encoders: Encoders and translators by their names in the pipeline, loaded or by name.
        generator: Space that the generator was trained on; None if unknown.
        pairs: Names of two spaces and what it means if they differ. A translator's are
            `"NAME source"` and `"NAME target"`.
        **access: As for `read_space`.
    """
    spaces = {"generator": generator}
    for part, encoder in encoders.items():
        if part.endswith("translator"):
            both = translator_spaces(encoder, **access)
            spaces[f"{part} source"], spaces[f"{part} target"] = both
        elif part != "ip_adapter":
            spaces[part] = encoder_space(encoder, "clip" if part == "clip" else "clap", **access)
    for first, second, what in pairs:
        expected, got = spaces[first], spaces[second]
        if expected is not None and got is not None:
            require_same_model(expected, got, what=what)


def check_sizes(pipeline: Any, what: str, space: tuple[str, EmbeddingSpace | None]) -> None:
    """Raise a `UserError` unless components have a generator's embedding size and channels.

    `what` names the generator in the message; `space` is the name and space of its encoder.
    """
    negative, memory = pipeline.negative_embedding, pipeline.retrieval_memory
    filters = getattr(pipeline, "class_filters", None)
    sizes = {
        "the translator returns": pipeline.translator and pipeline.translator.target_dim,
        "the negative embedding has": negative and negative.config["dim"],
        "the retrieval memory has": memory and memory.config["dim"],
        "the class filters have": filters and filters.config["dim"],
        space[0]: space[1] and space[1].dim,
    }
    dim = pipeline.embed_dim
    for component, size in sizes.items():
        if size and size != dim:
            raise UserError(f"{what} expects embeddings of {dim} values, {component} {size}.")
    size = pipeline.unet.config["sample_size"]
    if not isinstance(size, int) or size < 1:
        raise UserError(f"unet/config.json: sample_size is {size!r}; expected a positive integer.")
    channels, expected = pipeline.unet.config["in_channels"], pipeline.vae.config["latent_channels"]
    if channels != expected:
        raise UserError(
            f"The UNet generates latents of {channels} channels, the VAE expects {expected}."
        )
    if filters is not None and filters.config["channels"] != channels:
        raise UserError(
            f"The UNet generates latents of {channels} channels, the class filters expect "
            f"{filters.config['channels']}."
        )
