"""Find a generator's folder and load its parts strictly and quietly."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import httpx
import torch
import transformers
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from clip2clap.embeddings.errors import UserError
from clip2clap.presets import GENERATOR_PRESETS

INDEX_FILE = "model_index.json"
_DESCRIPTIONS = (".json", ".txt", ".model")
_WEIGHTS = (".safetensors", ".bin")

Model = TypeVar("Model")

logger = logging.getLogger(__name__)


class CheckpointError(UserError):
    """A generator's folder is missing, incomplete, or not of a kind that can be used here."""


@contextmanager
def quietly() -> Iterator[None]:
    """Keep diffusers' and transformers' warnings and progress bars from the user meanwhile.

    What they would warn of (missing or extra weights) is checked here and raised instead.
    """
    restore: list[Callable[[], None]] = []
    for log in (diffusers.logging, transformers.logging):
        verbosity = log.get_verbosity()
        restore.append(lambda log=log, verbosity=verbosity: log.set_verbosity(verbosity))
        if log.is_progress_bar_enabled():
            restore.append(log.enable_progress_bar)
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for undo in restore:
            undo()


def fetch_folder(
    name: str | os.PathLike[str],
    components: Sequence[str],
    *,
    variant: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """Give the local folder of a pipeline, and download what is missing of the parts named.

    Of each part only what is needed comes: its descriptions, and its weights in safetensors where
    the repository has them. Parts not named (such as a text encoder) are left on the hub.

    Args:
        name: A folder, or a repository's id on the hub.
        components: Subfolders wanted.
        variant: The weights' variant, such as `"fp16"`; where a part lacks it, the plain weights.
        revision: Branch, tag or commit on the hub.
        token: Credentials for a private repository.
        local_files_only: Use what was downloaded before and ask no hub.

    Returns:
        A folder with a `model_index.json`.

    Raises:
        CheckpointError: If there is no such folder or repository, or it can't be reached.
    """
    if Path(name).is_dir():
        return Path(name)
    repo_id = str(name)
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise CheckpointError(
            f"There is no generator folder {repo_id!r}. Name a folder, a hub id (owner/name), or "
            f"one of: {', '.join(GENERATOR_PRESETS)}."
        )
    try:
        patterns = [INDEX_FILE, *(f"{component}/*" for component in components)]
        if not local_files_only:
            try:
                listed = HfApi(token=token).list_repo_files(repo_id, revision=revision)
                patterns = _needed_files(listed, components, variant)
            except (httpx.TransportError, OfflineModeIsEnabled) as error:
                logger.info("The hub can't be reached (%s): using what is on disk.", error)
                local_files_only = True
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                token=token,
                allow_patterns=patterns,
                local_files_only=local_files_only,
            )
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, httpx.TransportError) as error:
        raise CheckpointError(
            f"The generator {repo_id!r} is not on disk and the hub can't be reached. Download it "
            f"where there is a network (hf download {repo_id}), or name a local folder."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise CheckpointError(
            f"The hub gives no generator {repo_id!r}: {_first_line(error)}"
        ) from error


def read_index(folder: Path) -> dict[str, Any]:
    """Read which pipeline a folder holds, from its `model_index.json`.

    Raises:
        CheckpointError: If the folder holds no pipeline.
    """
    path = folder / INDEX_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} holds no pipeline: {INDEX_FILE} is missing. Expected a folder written by "
            "ImageToAudioPipeline.save_pretrained, or an AudioLDM or MusicLDM checkpoint."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def has_weights(folder: Path) -> bool:
    """Tell whether a part's weights are on disk."""
    return folder.is_dir() and any(path.suffix in _WEIGHTS for path in folder.iterdir())


def load_strictly(
    model_class: type[Model],
    folder: Path,
    *,
    dtype: torch.dtype,
    variant: str | None = None,
) -> Model:
    """Load a part of a pipeline whose checkpoint must hold its weights, all of them and no others.

    Args:
        model_class: A diffusers or transformers model class.
        folder: The part's folder.
        dtype: What the weights become.
        variant: The weights' variant, used where the part has it.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: If the folder, a weight or a size is missing or wrong; weights are named.
    """
    what = f"{model_class.__name__} in {folder}"
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{what}: config.json is missing. Is the checkpoint complete?")
    is_diffusers = issubclass(model_class, diffusers.ModelMixin)
    names = [path.name for path in folder.iterdir()]
    chosen = variant if variant and any(f".{variant}." in name for name in names) else None
    try:
        with quietly():
            model, info = model_class.from_pretrained(  # pyright: ignore[reportAttributeAccessIssue]
                folder,
                variant=chosen,
                output_loading_info=True,
                **{"torch_dtype" if is_diffusers else "dtype": dtype},
            )
    except (RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(f"{what} can't be loaded: {_first_line(error)}") from error
    missing = sorted(set(info["missing_keys"]) - _unused_weights(model))
    extra = sorted(info["unexpected_keys"])
    resized = sorted(str(key[0]) for key in info["mismatched_keys"])
    faults = [
        f"{word} {_listing(keys)}"
        for word, keys in (("missing", missing), ("unknown", extra), ("wrongly sized", resized))
        if keys
    ]
    if faults:
        raise CheckpointError(
            f"{what}: the weights don't fit the config: {'; '.join(faults)}. "
            "Take the checkpoint from its source again, or mend its config.json."
        )
    return model


def _unused_weights(model: Any) -> set[str]:
    """Give the weights a model never reads, which older checkpoints may lack."""
    if isinstance(model, transformers.SpeechT5HifiGan) and not model.config.normalize_before:
        return {"mean", "scale"}
    return set()


def _needed_files(
    listed: Sequence[str], components: Sequence[str], variant: str | None
) -> list[str]:
    """Choose from a repository's files: descriptions, and each part's weights in one format."""
    needed = [INDEX_FILE]
    for component in components:
        files = [file for file in listed if file.startswith(f"{component}/")]
        needed += [file for file in files if file.endswith(_DESCRIPTIONS)]
        for suffix in _WEIGHTS:
            weights = [file for file in files if file.endswith(suffix)]
            varied = [file for file in weights if variant and f".{variant}." in file]
            plain = [file for file in weights if Path(file).name.count(".") == 1]
            if varied or plain:
                needed += varied or plain
                break
    return needed


def _listing(keys: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
