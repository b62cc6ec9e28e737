"""Files of a saved captioner: finding them, reading the config, and checking the weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clip2clap.captioning.captioner import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE
from clip2clap.core.errors import CheckpointError, ModelNotFoundError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.hub import fetch
from clip2clap.core.presets import is_hub_id, resolve
from clip2clap.embeddings.checkpoint import read_json
from clip2clap.embeddings.weights import check_shapes

_HINT = (
    "Give a folder written by `clip2clap train-captioner`, a hub id (owner/name), 'demo' or "
    "'demo-clap'."
)
_REMEDY = "Train it again, or download it again."


def find_folder(name: str | os.PathLike[str], **access: Any) -> Path:
    """Return the folder of a captioner, downloaded if need be.

    Raises:
        ModelNotFoundError: If there is none.
    """
    given, name = os.fspath(name), resolve(os.fspath(name), "captioner")
    folder = as_path(name)
    if given != name and not folder.is_dir():
        raise ModelNotFoundError(
            f"This installation has no {given} captioner. Train one with `clip2clap "
            "train-captioner`, and give its folder."
        )
    if folder.is_file():
        raise ModelNotFoundError(f"{name} is a file; give the folder that holds the captioner.")
    if not folder.is_dir():
        if not is_hub_id(name):
            raise ModelNotFoundError(f"There is no captioner folder {name!r}. {_HINT}")
        folder = fetch(name, lambda _: ["*.json", "*.safetensors", "*.txt"], hint=_HINT, **access)
    if not (folder / CONFIG_FILE).is_file():
        raise ModelNotFoundError(f"{folder} holds no captioner: {CONFIG_FILE} is missing. {_HINT}")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Read a captioner's config.

    Raises:
        CheckpointError: If it is another model's, broken, or of a newer format.
    """
    path = folder / CONFIG_FILE
    config = read_json(path)
    if config.get("_class_name") != "Captioner":
        found = one_line(repr(config.get("_class_name")), limit=60)
        raise CheckpointError(f"{path} is of class {found}, not of a Captioner. {_HINT}")
    if config.get("_format_version") not in range(1, FORMAT_VERSION + 1):
        raise CheckpointError(
            f"{path} is written in format {config.get('_format_version')!r}; this version of "
            f"clip2clap reads formats up to {FORMAT_VERSION}. Install a newer one."
        )
    kinds = {"mapper": dict, "language_model": str}
    for key, kind in kinds.items():
        if not isinstance(config.get(key), kind):
            raise CheckpointError(f"{path} has no {key} as expected. {_REMEDY}")
    return config


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Load the mapper's weights, if they are exactly the expected ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} holds no weights: {WEIGHTS_FILE} is missing.")
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} can't be read: {one_line(error)}. {_REMEDY}") from error
    check_shapes(str(path), found, shapes, remedy=_REMEDY)
    return found
