"""Files of a pipeline: fetch them from the hub and read `model_index.json`."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clip2clap.core.errors import (
    CheckpointError,
    ModelNotFoundError,
    UserError,
    is_out_of_memory,
    one_line,
)
from clip2clap.core.files import as_path
from clip2clap.core.hub import quiet
from clip2clap.core.presets import PRESETS, Kind, is_hub_id
from clip2clap.inference.loading.configs import named_in

INDEX_FILE = "model_index.json"

_RENAMED = {"embedding_memory": "retrieval_memory"}
WEIGHTS = (".safetensors", ".bin")


def fetch_folder(
    name: str | os.PathLike[str],
    parts: Sequence[str] = (),
    *,
    kind: Kind = "generator",
    variant: str | None = None,
    **access: Any,
) -> Path:
    """Return the local folder of a pipeline, after downloading the components (parts) it lacks.

    Of each component only configs are downloaded, and the weights in safetensors where the
    repository has them; plain weights for a component without the variant. `access` is `revision`,
    `token` and `local_files_only`, as for `fetch`.

    Raises:
        ModelNotFoundError: If there is no such folder or repository, or the hub is unreachable.
    """
    from clip2clap.core.hub import fetch

    repo_id = os.fspath(name)
    if as_path(repo_id).is_dir():
        return as_path(repo_id)
    hint = f"Give a preset ({', '.join(PRESETS[kind])}), a hub id or a folder."
    if not is_hub_id(repo_id):
        raise ModelNotFoundError(f"There is no {kind} folder {repo_id!r}. {hint}")

    def choose(listed: list[str] | None) -> list[str]:
        if listed is None:
            return [INDEX_FILE, *(f"{part}/*" for part in parts)]
        return _needed_files(listed, parts, variant)

    return fetch(repo_id, choose, hint=hint, **access)


def read_index(folder: Path, *, expected: str = "save_pretrained") -> dict[str, Any]:
    """Read a pipeline's `model_index.json`, with names of earlier versions mapped.

    The message names what is expected to have written the folder.

    Raises:
        CheckpointError: If the folder holds no pipeline.
    """
    from clip2clap.embeddings.checkpoint import read_json

    if not (folder / INDEX_FILE).is_file():
        raise CheckpointError(
            f"{folder} holds no pipeline: {INDEX_FILE} is missing. Expected a folder written by "
            f"{expected}."
        )
    return upgrade_index(read_json(folder / INDEX_FILE))


def upgrade_index(index: dict[str, Any]) -> dict[str, Any]:
    """Return an index with the names of earlier versions mapped to today's."""
    index = {_RENAMED.get(name, name): value for name, value in index.items()}
    if "default_guidance_end" in index:
        index["default_guidance_interval"] = [0.0, index.pop("default_guidance_end")]
    return index


@contextlib.contextmanager
def explained(
    what: str, config: dict[str, Any] | None = None, model_class: Any = None
) -> Iterator[None]:
    """Mute libraries, and raise a `CheckpointError` that names the field for what they raise."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        field = named_in(error, config, model_class) if config else ""
        raise CheckpointError(f"{what} can't be loaded: {one_line(error)}{field}") from error


def part_names(part: str) -> list[str]:
    """Return the folder names of a component: today's, and that of earlier versions."""
    return [part, *(older for older, newer in _RENAMED.items() if newer == part)]


def _needed_files(listed: Sequence[str], parts: Sequence[str], variant: str | None) -> list[str]:
    """Return the configs in a repository, and each component's weights in one format."""
    needed = [INDEX_FILE]
    for part in parts:
        files = [file for file in listed if file.startswith(f"{part}/")]
        needed += [file for file in files if file.endswith((".json", ".txt", ".model"))]
        for suffix in WEIGHTS:
            weights = [file for file in files if file.endswith(suffix)]
            varied = [file for file in weights if variant and f".{variant}" in file]
            plain = [file for file in weights if Path(file).name.count(".") == 1] or weights
            if varied or plain:
                needed += varied or plain
                break
    return needed
