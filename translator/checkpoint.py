"""Files of a saved translator: finding them, reading the config, and checking the weights."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.hub import fetch
from clip2clap.core.presets import DEMO_FOLDER, is_hub_id
from clip2clap.embeddings.checkpoint import read_json
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.weights import check_shapes

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
FORMAT_VERSION = 3

_DEMOS = {"demo": "image_to_audio", "demo-back": "audio_to_image"}
_ACCESS = ("revision", "token", "local_files_only", "cache_dir", "force_download")
_TYPES = dict.fromkeys(("source_space", "target_space", "recipe", "metrics", "versions"), dict)
_TYPES |= {"data": str, "_name_or_path": str}
REMEDY = "Train or save it again, or download it again."
_HINT = "Give a folder written by `clip2clap train`, a hub id (owner/name), 'demo' or 'demo-back'."


def find_folder(
    name: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    weights: bool = True,
    **access: Any,
) -> Path:
    """Return the folder of a translator that holds its `config.json`, downloaded if need be.

    The arguments are those of `Translator.from_pretrained`, with `access` for the hub; without
    `weights` only the config is downloaded.
    """
    if name is None:
        raise UserError("Expected a translator's folder or hub id, got None.")
    if unknown := ", ".join(access.keys() - _ACCESS):
        raise TypeError(f"from_pretrained has no argument {unknown}.")
    name = os.fspath(name)
    if name in _DEMOS:
        name = str(DEMO_FOLDER / _DEMOS[name] / "translator")
        if not Path(name).is_dir():
            raise ModelNotFoundError(
                f"The demo translator is missing from this installation (expected it in {name}). "
                "Install clip2clap again."
            )
    local = as_path(name)
    if local.is_file():
        raise ModelNotFoundError(f"{name} is a file; give the folder that holds the translator.")
    if not local.is_dir():
        files = [CONFIG_FILE, weights_file(variant)] if weights else [CONFIG_FILE]
        if not is_hub_id(name):
            raise ModelNotFoundError(f"There is no translator folder {name!r}. {_HINT}")
        paths = [os.path.join(subfolder or "", file) for file in files]
        local = fetch(name, lambda _: paths, hint=_HINT, **access)
    folder = local / (subfolder or "")
    if not (folder / CONFIG_FILE).is_file():
        hint = (
            " It is a whole pipeline: name its subfolder 'translator'."
            if (local / "translator" / CONFIG_FILE).is_file()
            else " Expected a folder written by `clip2clap train` or Translator.save_pretrained."
        )
        raise ModelNotFoundError(
            f"{Path(name) / (subfolder or '')} holds no translator: {CONFIG_FILE} is missing.{hint}"
        )
    return folder


def weights_file(variant: str | None) -> str:
    """Return the name of the weights file, with the variant before the suffix."""
    stem, suffix = WEIGHTS_FILE.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else WEIGHTS_FILE


def read_config(name: str | os.PathLike[str], **access: Any) -> dict[str, Any]:
    """Read a translator's config without its weights, such as to check its spaces first.

    Args:
        name: Folder written by `save_pretrained`, hub id, `"demo"` or `"demo-back"`.
        **access: `subfolder` of that folder or repository, and how the hub is reached, as in
            `Translator.from_pretrained`.

    Returns:
        The config, converted to the current format: `_class_name`, the arguments of
        the class, and the fields of `Provenance`, spaces as plain values.

    Raises:
        ModelNotFoundError: If there is no such translator, or the hub cannot be reached.
        CheckpointError: If the config is broken, or of a newer format.

    Examples:
        >>> from clip2clap.translator import read_config
        >>> read_config("demo")["target_space"]["family"]
        'clap'
    """
    folder = find_folder(name, weights=False, **access)
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config.get("_class_name"), str):
        raise CheckpointError(
            f"{folder / CONFIG_FILE} names no `_class_name`, so it is no translator's config. "
            "Expected a folder written by `clip2clap train` or Translator.save_pretrained."
        )
    config = upgrade_config(config, folder / CONFIG_FILE)
    facts = {key: (config, kind) for key, kind in _TYPES.items()}
    for side in ("source_space", "target_space"):
        if isinstance(config.get(side), dict):
            names = ("family", "model_id", "modality", "fingerprint")
            facts |= {f"{side}.{name}": (config[side], str) for name in names}
    for key, (values, kind) in facts.items():
        value = values.get(key.split(".")[-1])
        if value is not None and not isinstance(value, kind):
            expected = "a JSON object" if kind is dict else "text"
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has {one_line(repr(value), limit=60)} as its {key}, where "
                f"{expected} is expected. {REMEDY}"
            )
    for key in ("source_space", "target_space"):
        try:
            if config.get(key) is not None:
                EmbeddingSpace.from_dict(config[key])
        except UserError as error:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has a broken {key}: {one_line(error)} {REMEDY}"
            ) from error
    return config


def upgrade_config(config: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Return a config of any version, read from `where`, in the present format."""
    version = config.get("_format_version", 1)
    if version not in range(1, FORMAT_VERSION + 1):
        raise CheckpointError(
            f"{where} is written in format {one_line(repr(version), limit=60)}; this version of "
            f"clip2clap reads formats up to {FORMAT_VERSION}. Install a newer one."
        )
    upgraded = {"versions": {}, **config}
    if version < 2:
        # Format 1 recorded the version of clip2clap alone, and no data.
        versions = {
            "clip2clap": upgraded.pop("clip2clap_version", None),
            "diffusers": upgraded.get("_diffusers_version"),
        }
        upgraded |= {"versions": {key: v for key, v in versions.items() if v}, "data": None}
    if version < 3:
        for old, new in (("hidden", "hidden_size"), ("centred", "centered")):
            if old in upgraded:
                upgraded[new] = upgraded.pop(old)
    return {**upgraded, "_format_version": FORMAT_VERSION}


def load_weights(
    folder: Path,
    variant: str | None,
    expected: Mapping[str, tuple[int, ...]],
    *,
    renamed: Mapping[str, str],
) -> "dict[str, Tensor]":
    """Load the weights of a translator, if they are exactly the expected ones.

    `expected` has the shape of each weight by name, `renamed` the new names of weights that older
    versions saved under others. Without a variant the only file is loaded if there is just one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / weights_file(variant)
    if variant is None and not path.is_file():
        # A whole pipeline that is saved with a variant loads its other components with it alone.
        variants = list(folder.glob(weights_file("*")))
        path = variants[0] if len(variants) == 1 else path
    if not path.is_file():
        raise ModelNotFoundError(f"{folder} holds no weights: {path.name} is missing.")
    try:
        found = {renamed.get(key, key): weight for key, weight in load_file(path).items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} can't be read: {one_line(error)}. {REMEDY}") from error
    check_shapes(
        str(path),
        found,
        expected,
        mismatched=[
            f"{key} of {weight.dtype} where floating point is expected"
            for key, weight in found.items()
            if not weight.is_floating_point()
        ],
        remedy=REMEDY,
    )
    broken = [key for key, weight in found.items() if not bool(weight.float().isfinite().all())]
    if broken:
        raise CheckpointError(f"{path} holds NaN or infinity in {broken[0]}. {REMEDY}")
    return found
