"""The loader of both pipelines."""

import os
from pathlib import Path
from typing import Any

from clip2clap.core.errors import CheckpointError
from clip2clap.core.presets import Kind, companions_of, resolve
from clip2clap.inference.compatibility import PathOrId
from clip2clap.inference.loading.components import (
    DtypeChoice,
    load_components,
    load_encoders,
    part_dtypes,
)
from clip2clap.inference.loading.files import fetch_folder, part_names, read_index
from clip2clap.inference.loading.formats import (
    DECODER_FORMATS,
    GENERATOR_FORMATS,
    SavedFormat,
    Source,
)

_FORMATS = {"generator": GENERATOR_FORMATS, "decoder": DECODER_FORMATS}
_CONDITIONS = {"generator": "a CLAP embedding", "decoder": "a CLIP image embedding"}


def open_index(
    name: PathOrId, kind: Kind, *, published_only: bool = False, **access: Any
) -> tuple[Path, dict[str, Any], SavedFormat]:
    """Read the index of a pipeline and check that its format is supported.

    Args:
        name: Preset, hub id or folder.
        kind: `"generator"` for `ImageToAudioPipeline`, `"decoder"` for `AudioToImagePipeline`.
        published_only: Whether to reject folders written by `save_pretrained`.
        **access: `revision`, `token` and `local_files_only`.

    Returns:
        Local folder, index and format.

    Raises:
        ModelNotFoundError: If there is no such folder or repository.
        CheckpointError: If it holds another pipeline, which is named, or none.
    """
    formats = dict(_FORMATS[kind])
    own = next(iter(formats))
    if published_only:
        del formats[own]
    folder = fetch_folder(resolve(os.fspath(name), kind), kind=kind, **access)
    *others, last = formats
    expected = f"{', '.join(others)} or {last}"
    index = read_index(folder, expected=f"{own}.save_pretrained, or a checkpoint of {expected}")
    class_name = str(index.get("_class_name"))
    if class_name not in formats:
        raise CheckpointError(
            f"{os.fspath(name)} holds a {class_name}; expected an {expected}, whose UNet is "
            f"conditioned on {_CONDITIONS[kind]}."
        )
    return folder, index, formats[class_name]


def load_pipeline(
    pipeline_class: Any,
    name: PathOrId,
    given: dict[str, Any],
    overrides: dict[str, Any],
    *,
    torch_dtype: DtypeChoice,
    variant: str | None = None,
    revision: str | None = None,
    fetch_text_encoder: bool = True,
    published_only: bool = False,
    **access: Any,
) -> Any:
    """Load a pipeline: its own format or that of a published generator.

    The spaces of all components are compared before any weights are read.

    Args:
        pipeline_class: `ImageToAudioPipeline` or `AudioToImagePipeline`.
        name: Preset, hub id or folder.
        given: Encoders and translators that the user gives, loaded or by name, or None each.
        overrides: Components and settings that replace the checkpoint's where not None.
        torch_dtype: As in the pipelines' `from_pretrained`.
        variant: Weights' variant.
        revision: Branch, tag or commit on the hub.
        fetch_text_encoder: Whether the text encoder of an AudioLDM checkpoint may be downloaded.
        published_only: Whether to reject folders written by `save_pretrained`.
        **access: `token` and `local_files_only`.
    """
    kind = pipeline_class.preset_kind
    folder, index, format = open_index(
        name, kind, published_only=published_only, revision=revision, **access
    )
    dtypes = part_dtypes(torch_dtype)
    location = resolve(os.fspath(name), kind)
    source = Source(pipeline_class, location, folder, index, access, revision, fetch_text_encoder)
    missing = [part for part, value in given.items() if value is None]
    if type(format) is SavedFormat:
        fetch_folder(location, missing, kind=kind, revision=revision, **access)
    companions = companions_of(location, kind)
    defaults = {
        part: format.default_encoder(source, part, companions.get(part)) for part in missing
    }
    given = {**given, **defaults}
    space = format.space(source, given)
    pipeline_class.check_spaces(given, space, **access)

    places = format.places(source)
    folders = [name for place in places.values() for name in part_names(place)]
    fetch_folder(location, folders, kind=kind, variant=variant, revision=revision, **access)
    precomputed = format.precompute(source)
    parts = load_components(folder, index, places, dtypes, variant)
    encoders = load_encoders(given, dtypes, modalities=pipeline_class.encoder_modalities, **access)
    settings = format.settings(source, parts, encoders, space)
    chosen = {name: value for name, value in overrides.items() if value is not None}
    pipeline = pipeline_class(**{**encoders, **parts, **precomputed, **settings, **chosen})
    pipeline.register_to_config(_name_or_path=os.fspath(name))
    return pipeline
