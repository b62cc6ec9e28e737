"""Model cards of translators and pipelines, built from what their configs record."""

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clip2clap.core.card import CARD_FILE, table, write_sections

_TAGS = ["clip", "clap", "cross-modal", "embedding-translation"]


def write_card(
    folder: Path, name: str, usage: str, config: Mapping[str, Any], *, license: str | None = None
) -> None:
    """Write the model card of a saved translator, or of a pipeline that holds one.

    A card that somebody wrote or edited is kept: it lacks the line that marks a generated one.

    Args:
        folder: Folder of the model.
        name: Title, such as the repository's id.
        usage: Python code that loads the model.
        config: `config` of the translator.
        license: Identifier of the license, such as `cc-by-4.0`.
    """
    from huggingface_hub import ModelCardData

    spaces = [config[side] for side in ("source_space", "target_space") if config.get(side)]
    models = list(dict.fromkeys(space["model_id"] for space in spaces))
    on_hub = [model for model in models if re.fullmatch(r"[\w.-]+/[\w.-]+", model)]
    data = ModelCardData(
        library_name="clip2clap", license=license, base_model=on_hub or None, tags=_TAGS
    )
    sections = {
        "Usage": f"```python\n{usage.rstrip()}\n```",
        "Spaces": table(["Model", "Modality", "Dimensions", "Fingerprint"], map(_space, spaces)),
        "Training": table(["Setting", "Value"], _settings(config).items()),
        "Metrics": _metrics(config.get("metrics") or {}),
        "License": license
        or f"Not stated. The licenses of {', '.join(models) or 'the encoders'} and of the training "
        "data apply.",
    }
    source, target = (
        f"{config[f'{side}_dim']} values of {space['model_id'] if space else 'an unnamed model'}"
        for side, space in ((side, config.get(f"{side}_space")) for side in ("source", "target"))
    )
    opening = f"`{config['_class_name']}` of clip2clap: maps {source} to {target}."
    write_sections(folder, name, data.to_yaml(), opening, sections)


def push(
    save: Callable[[Path, str], None],
    repo_id: str,
    *,
    commit_message: str,
    private: bool | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Save a model into a temporary folder, and upload it; returns the address of the commit.

    `save` is called with the folder and the repository's full id. A card that the repository has
    is replaced only if it was generated.
    """
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if api.file_exists(repo_id, CARD_FILE):
            hf_hub_download(repo_id, CARD_FILE, token=token, local_dir=folder)
        save(folder, repo_id)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            create_pr=create_pr,
            ignore_patterns=[".cache/*"],
        )
        return commit.commit_url


def _space(space: Mapping[str, Any]) -> list[Any]:
    return [space[key] for key in ("model_id", "modality", "dim", "fingerprint")]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    data = {"data": config["data"]} if config.get("data") else {}
    versions = {f"{name} version": value for name, value in (config.get("versions") or {}).items()}
    return {**(config.get("recipe") or {}), **data, **versions}


def _metrics(metrics: Mapping[str, Any]) -> str:
    """Format the metrics beside their controls, which are mappings of the same names."""
    controls = {name: own for name, own in metrics.items() if isinstance(own, Mapping)}
    numbers = {name: own for name, own in metrics.items() if isinstance(own, int | float)}
    header = ["Metric", "Value", *(name.replace("_", " ") for name in controls)]
    rows = [
        [name, value, *(control.get(name, "") for control in controls.values())]
        for name, value in numbers.items()
    ]
    if not rows:
        return ""
    return f"On {metrics.get('measured_on', 'held-out')} pairs.\n\n{table(header, rows)}"
