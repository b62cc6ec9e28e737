"""Find a translator's files, read its config, and check its weights before they are loaded."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.embeddings.checkpoint import (
    ModelNotFoundError,
    fetch_from_hub,
    read_json,
)
from clip2clap.embeddings.space import EmbeddingSpace

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
FORMAT_VERSION = 2

# The way there, and the way back.
_DEMOS = {"demo": "image_to_audio", "demo-back": "audio_to_image"}

_REMEDY = "Train or save it again, or take it from its source again."


def find_folder(
    name: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    weights: bool = True,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
) -> Path:
    """Give the local folder of a translator, and download it where it is not on disk.

    Args:
        name: A folder written by `save_pretrained`, a hub id, `"demo"`, or `"demo-back"`, the
            demo's from CLAP to CLIP.
        subfolder: Where the translator lies inside that folder or repository.
        variant: The weights' variant, such as `"fp16"`.
        weights: Whether the weights are wanted too, or the config alone.
        revision: Branch, tag or commit on the hub.
        token: Credentials for a private repository.
        local_files_only: Use what was downloaded before and ask no hub.
        cache_dir: Where downloads are kept, in place of the hub's own cache.
        force_download: Download even what is on disk already.

    Returns:
        A folder with a `config.json`.

    Raises:
        ModelNotFoundError: If there is no such translator, or the hub can't be reached.
    """
    name = os.fspath(name)
    if name in _DEMOS:
        name = str(DEMO_FOLDER / _DEMOS[name] / "translator")
        if not Path(name).is_dir():
            raise ModelNotFoundError(
                f"The demo translator is missing from this installation (expected it in {name}). "
                "Install clip2clap again."
            )
    subfolder = subfolder or ""
    local = Path(name).expanduser()
    if local.is_file():
        raise ModelNotFoundError(f"{name} is a file; give the folder that holds the translator.")
    if not local.is_dir():
        files = [CONFIG_FILE, weights_file(variant)] if weights else [CONFIG_FILE]
        local = _download(
            name,
            [f"{subfolder}/{file}" if subfolder else file for file in files],
            revision=revision,
            token=token,
            local_files_only=local_files_only,
            cache_dir=cache_dir,
            force_download=force_download,
        )
    folder = local / subfolder
    if not (folder / CONFIG_FILE).is_file():
        hint = (
            " It is a whole pipeline: name its subfolder 'translator'."
            if (local / "translator" / CONFIG_FILE).is_file()
            else " Expected a folder written by `clip2clap train` or Translator.save_pretrained."
        )
        raise ModelNotFoundError(
            f"{Path(name) / subfolder} holds no translator: {CONFIG_FILE} is missing.{hint}"
        )
    return folder


def weights_file(variant: str | None) -> str:
    """Name the weights' file, which carries its variant before the suffix."""
    stem, suffix = WEIGHTS_FILE.rsplit(".", 1)
    return f"{stem}.{variant}.{suffix}" if variant else WEIGHTS_FILE


def read_config(
    name: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Read a translator's config without its weights, so that its spaces can be checked first.

    Args:
        name: A folder written by `save_pretrained`, a hub id, `"demo"`, or `"demo-back"`, the
            demo's from CLAP to CLIP.
        subfolder: Where the translator lies inside that folder or repository.
        revision: Branch, tag or commit on the hub.
        token: Credentials for a private repository.
        local_files_only: Use what was downloaded before and ask no hub.
        cache_dir: Where downloads are kept, in place of the hub's own cache.

    Returns:
        The config: `_class_name`, `source_dim`, `target_dim`, `source_space` and `target_space`
        (what `EmbeddingSpace.from_dict` takes, or None), `recipe`, `metrics`, `data` and
        `versions`, with what belongs to its kind; in the present format, whatever the file's is.

    Raises:
        ModelNotFoundError: If there is no such translator, or the hub can't be reached.
        CheckpointError: If its config is broken, or of a format that is not known yet.
    """
    folder = find_folder(
        name,
        subfolder=subfolder,
        weights=False,
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
    )
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config.get("_class_name"), str):
        raise CheckpointError(
            f"{folder / CONFIG_FILE} names no `_class_name`, so it is no translator's config. "
            "Expected a folder written by `clip2clap train` or Translator.save_pretrained."
        )
    config = upgrade_config(config, folder)
    for key in ("source_space", "target_space"):
        if config.get(key) is None:
            continue
        try:
            EmbeddingSpace.from_dict(config[key])
        except (UserError, TypeError) as error:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has a broken {key}: {one_line(error)} {_REMEDY}"
            ) from error
    return config


def upgrade_config(config: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """Bring a translator's config into the present format.

    Args:
        config: As it was written, by this version or an older one.
        where: What it is of, for the message.

    Returns:
        The same facts under today's names.

    Raises:
        CheckpointError: If a newer version wrote it.
    """
    version = config.get("_format_version", 1)
    if version not in (FORMAT_VERSION, *_UPGRADES):
        raise CheckpointError(
            f"{where} is written in format {version!r}; this version of clip2clap reads formats up "
            f"to {FORMAT_VERSION}. Install a newer one."
        )
    upgraded = dict(config)
    for older in range(version, FORMAT_VERSION):
        upgraded = _UPGRADES[older](upgraded)
    return {**upgraded, "_format_version": FORMAT_VERSION}


def _from_format_1(config: dict[str, Any]) -> dict[str, Any]:
    """Format 1 named the version of clip2clap alone, and no pairs."""
    versions = {
        "clip2clap": config.pop("clip2clap_version", None),
        "diffusers": config.get("_diffusers_version"),
    }
    return {**config, "versions": {name: v for name, v in versions.items() if v}, "data": None}


_UPGRADES = {1: _from_format_1}
"""What turns a config of each older format into one of the next."""


def check_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file that doesn't hold exactly the weights a translator has; nothing is loaded.

    Args:
        path: The safetensors file.
        expected: Shape of each weight by its name.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it can't be read, or a weight is missing, unknown or wrongly sized.
    """
    if not path.is_file():
        raise ModelNotFoundError(f"{path.parent} holds no weights: {path.name} is missing.")
    try:
        with safe_open(path, framework="pt") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} can't be read: {one_line(error)}. {_REMEDY}") from error
    resized = [
        f"{key} {found[key]} where {shape} is expected"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    faults = [
        f"{fault} {_listing(keys)}"
        for fault, keys in (
            ("missing", expected.keys() - found.keys()),
            ("unknown", found.keys() - expected.keys()),
            ("wrongly sized", resized),
        )
        if keys
    ]
    if faults:
        raise CheckpointError(
            f"{path}: the weights don't fit the config: {'; '.join(faults)}. {_REMEDY}"
        )


def _listing(keys: Iterable[str], most: int = 4) -> str:
    names = sorted(keys)
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _download(
    repo_id: str,
    files: list[str],
    *,
    revision: str | None,
    token: str | bool | None,
    local_files_only: bool,
    cache_dir: str | Path | None,
    force_download: bool,
) -> Path:
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"There is no translator folder {repo_id!r}. Give a folder written by `clip2clap "
            "train`, a hub id (owner/name), 'demo' or 'demo-back'."
        )
    return fetch_from_hub(
        repo_id,
        lambda _: files,
        hint="Give a folder written by `clip2clap train`, a hub id (owner/name), 'demo' or "
        "'demo-back'.",
        revision=revision,
        token=token,
        local_files_only=local_files_only,
        cache_dir=cache_dir,
        force_download=force_download,
    )
