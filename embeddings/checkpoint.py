"""Checkpoints of encoders: the files that one model consists of, on disk or on the hub."""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clip2clap.core.errors import (
    CheckpointError,
    HubUnreachableError,
    MissingExtraError,
    ModelNotFoundError,
    UserError,
    one_line,
    with_article,
)
from clip2clap.core.files import as_path
from clip2clap.core.hub import Listing, fetch, list_hub_files
from clip2clap.core.presets import DEMO_FOLDER, PRESETS, resolve, suggestion

Library = Literal["transformers", "open_clip", "laion_clap", "audioclip"]
EncoderKind = Literal["clip", "clap", "speech_encoder"]

_KIND_NAMES = {"clip": "CLIP", "clap": "CLAP", "speech_encoder": "speech encoder"}

# The order of preference; a repository often holds the same weights in several formats.
_TRANSFORMERS_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    # A variant, such as fp16, where there is nothing else.
    ("model.*.safetensors",),
)
_OPEN_CLIP_WEIGHTS = (
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.safetensors",),
    ("open_clip_pytorch_model.bin",),
)
_SMALL_FILES = ("*.json", "*.txt", "*.model")
NOTE_FILE = "space.json"
_OPEN_CLIP_PREFIX = "open_clip:"
# Single files, by the prefix that names their library: the kinds they are, and where they are from.
_FILES: dict[str, tuple[Library, tuple[EncoderKind, ...], str]] = {
    "laion_clap:": ("laion_clap", ("clap",), "https://huggingface.co/lukewys/laion_clap"),
    "audioclip:": (
        "audioclip",
        ("clip", "clap"),
        "https://github.com/AndreyGuzhov/AudioCLIP/releases",
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """Files of one model on disk, and the library that loads it.

    `weights` are several files if the checkpoint is sharded; `folder` has the config, and
    `processor_folders` the image processor, tokenizer and feature extractor. open_clip's models by
    name have an `architecture` in place of a folder, and perhaps a `tag` of the weights, which
    decides the preprocessing. `note` is what `save_pretrained` of the encoders wrote.
    """

    name: str
    library: Library
    weights: tuple[Path, ...]
    folder: Path | None = None
    processor_folders: tuple[Path, ...] = ()
    architecture: str | None = None
    tag: str | None = None
    note: dict[str, Any] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else is a `CheckpointError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON ({one_line(error)}). Fetch or save the checkpoint again."
        ) from error
    if not isinstance(values, dict):
        found = with_article(type(values).__name__)
        raise CheckpointError(f"{path} should hold a JSON object, not {found}.")
    return values


def find_checkpoint(
    name: str | Path,
    kind: EncoderKind,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
) -> Checkpoint:
    """Find the files of a model, and download missing ones from the hub.

    The name is a preset, hub id, folder, `open_clip:ARCH/TAG_OR_FILE`, `laion_clap:FILE` or
    `audioclip:FILE`. For CLAP it may also be an AudioLDM or MusicLDM pipeline (its text encoder and
    tokenizer), for CLIP a pipeline with an image encoder such as stable unCLIP, for both a pipeline
    of clip2clap.
    Downloads go to `cache_dir`, if given, in place of the hub's own cache.

    Raises:
        ModelNotFoundError: If the model is neither on disk nor on the hub.
        CheckpointError: If the files are no checkpoint of that kind.
    """
    name = str(name)
    access = {"revision": revision, "token": token, "local_files_only": local_files_only}
    access |= {"cache_dir": cache_dir}
    if not name:
        raise UserError(f"The {_KIND_NAMES[kind]}'s name is empty. {suggestion(name, kind)}")
    if name.startswith(_OPEN_CLIP_PREFIX):
        _check_kind(name, ("clip",), kind)
        return _find_open_clip(name, access)
    for prefix, (library, kinds, origin) in _FILES.items():
        if name.startswith(prefix):
            _check_kind(name, kinds, kind)
            return _find_file(name, prefix, library, origin)
    location = resolve(name, kind)
    if location == name and kind != "speech_encoder":
        # A generator's checkpoint holds a CLAP, and an image decoder's may hold a CLIP.
        location = resolve(name, "generator" if kind == "clap" else "decoder")
    return _in_folder(_Source(location, name, kind, access))


def _check_kind(name: str, kinds: tuple[EncoderKind, ...], kind: EncoderKind) -> None:
    if kind not in kinds:
        names = " or ".join(_KIND_NAMES[each] for each in kinds)
        raise UserError(f"{name!r} is a {names}; expected a {_KIND_NAMES[kind]}.")


def _find_file(name: str, prefix: str, library: Library, origin: str) -> Checkpoint:
    file = as_path(name.removeprefix(prefix))
    if file.is_file():
        return Checkpoint(name, library, (file,))
    raise ModelNotFoundError(
        f"There is no file {str(file)!r}. Expected {prefix}FILE, a checkpoint of {origin}."
    )


@dataclass
class _Source:
    """Folder on disk or repository on the hub."""

    location: str
    name: str
    kind: EncoderKind
    access: Mapping[str, Any]
    listed: Listing | None = None

    def folder(self, *patterns: str) -> Path:
        """Return the folder, with the files that match the patterns downloaded."""
        path = as_path(self.location)
        if path.is_dir():
            return path
        if path.is_file():
            raise ModelNotFoundError(
                f"{self.name} is a file; give the folder that holds it, or for an open_clip "
                f"checkpoint open_clip:ARCHITECTURE/{self.name}."
            )
        if DEMO_FOLDER in path.parents:
            raise ModelNotFoundError(
                f"The demo {_KIND_NAMES[self.kind]} is missing from this installation "
                f"(expected it in {path}). Install clip2clap again."
            )
        hint = suggestion(self.name, self.kind)
        if re.match(r"[./~\\]|[A-Za-z]:[\\/]", self.location) or self.location.count("/") > 1:
            raise ModelNotFoundError(f"There is no folder {self.name}. {hint}")
        if self.listed is None:
            access = {key: value for key, value in self.access.items() if key != "cache_dir"}
            self.listed = list_hub_files(self.location, **access)
        return fetch(
            self.location,
            lambda _: list(patterns),
            name=self.name,
            hint=hint,
            guess=self._close_preset(),
            listed=self.listed,
            **self.access,
        )

    def _close_preset(self) -> str | None:
        """Return the preset like a mistyped name; a preset's own name, or a hub id, has none."""
        if self.location != self.name or "/" in self.name:
            return None
        close = difflib.get_close_matches(self.name, PRESETS[self.kind], n=1)
        return close[0] if close else None

    def weights(self, subfolder: str, choices: tuple[tuple[str, ...], ...]) -> tuple[Path, ...]:
        """Return the weight files of the first format found."""
        prefix = f"{subfolder}/" if subfolder else ""
        unreachable = None
        for patterns in choices:
            try:
                folder = self.folder(*(prefix + pattern for pattern in patterns)) / subfolder
            except HubUnreachableError as error:
                unreachable = error
                continue
            index = next((folder / p for p in patterns if p.endswith(".index.json")), None)
            found = sorted(folder.glob(patterns[0]))
            if found:
                return (found[0],)
            if index is not None and index.is_file():
                return _shards(index)
        if unreachable is not None:
            raise unreachable
        first = [patterns[0] for patterns in choices]
        where = f"{self.name}/{subfolder}" if subfolder else self.name
        raise ModelNotFoundError(
            f"{where} holds no weights: expected {' or '.join(first)}. Fetch or save the "
            "checkpoint again."
        )


def _shards(index: Path) -> tuple[Path, ...]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index} names no shards. Fetch or save the checkpoint again.")
    paths = tuple(index.parent / Path(name).name for name in sorted(set(names.values())))
    for path in paths:
        if not path.is_file():
            raise CheckpointError(
                f"The shard {path} is missing. Fetch or save the checkpoint again."
            )
    return paths


def _in_folder(source: _Source) -> Checkpoint:
    """Find the model in a folder or repository of transformers, open_clip or diffusers."""
    folder = source.folder(*_SMALL_FILES)
    subfolder, processors = "", ("",)
    if (folder / "model_index.json").is_file() and not (folder / "config.json").is_file():
        subfolder, processors = _in_pipeline(source, folder)
    model_folder = folder / subfolder
    if (model_folder / "config.json").is_file():
        library, choices = "transformers", _TRANSFORMERS_WEIGHTS
    elif (model_folder / "open_clip_config.json").is_file():
        library, choices = "open_clip", _OPEN_CLIP_WEIGHTS
    else:
        raise ModelNotFoundError(
            f"{source.name} is no {_KIND_NAMES[source.kind]} checkpoint: expected a config.json "
            f"beside the weights. {suggestion(source.name, source.kind)}"
        )
    note = read_json(file) if (file := model_folder / NOTE_FILE).is_file() else {}
    if "towers" in note:  # older name of the key
        note["modalities"] = note.pop("towers")
    return Checkpoint(
        name=source.name,
        library=library,
        weights=source.weights(subfolder, choices),
        folder=model_folder,
        processor_folders=tuple(folder / name for name in processors if (folder / name).is_dir()),
        note=note,
    )


def component_class(index: dict[str, Any], part: str) -> str | None:
    """Return the class name of a component in an index; None if it has none."""
    value = index.get(part)
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
        return value[1]
    return None


def _in_pipeline(source: _Source, folder: Path) -> tuple[str, tuple[str, ...]]:
    """Return the subfolders of the model and of its processors in a diffusers pipeline."""
    index = read_json(folder / "model_index.json")
    pipeline = index.get("_class_name", "a pipeline")
    if (folder / source.kind).is_dir():
        return source.kind, (source.kind,)

    def starts(part: str, words: str) -> bool:
        return (component_class(index, part) or "").startswith(words)

    if source.kind == "clap" and starts("text_encoder", "Clap"):
        return "text_encoder", ("tokenizer", "feature_extractor")
    if source.kind == "clip" and starts("image_encoder", "CLIPVision"):
        return "image_encoder", ("feature_extractor", "image_processor")
    raise CheckpointError(
        f"{source.name} is a {pipeline} without a {_KIND_NAMES[source.kind]}. "
        f"{suggestion(source.name, source.kind)}"
    )


def _find_open_clip(name: str, access: Mapping[str, Any]) -> Checkpoint:
    architecture, _, weights = name.removeprefix(_OPEN_CLIP_PREFIX).partition("/")
    if not architecture or not weights:
        raise UserError(
            f"Expected open_clip:ARCHITECTURE/TAG_OR_FILE, such as "
            f"open_clip:ViT-B-32/laion2b_s34b_b79k, got {name!r}."
        )
    open_clip = import_open_clip(name)
    if open_clip.get_model_config(architecture) is None:
        close = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
        hint = f"Did you mean {' or '.join(close)}? " if close else ""
        raise ModelNotFoundError(
            f"open_clip has no architecture {architecture!r}. {hint}"
            "`open_clip.list_models()` lists them."
        )
    file = as_path(weights)
    if file.is_file():
        return Checkpoint(name, "open_clip", (file,), architecture=architecture)
    config = open_clip.get_pretrained_cfg(architecture, weights)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ModelNotFoundError(
            f"{weights!r} is neither a file nor open_clip's name of weights for {architecture}"
            f"{' (' + ', '.join(tags[:5]) + ', ...)' if tags else ''}. "
            f"`open_clip.list_pretrained_tags_by_model({architecture!r})` lists them."
        )
    repository, _, file_name = config.get("hf_hub", "").rpartition("/")
    if not repository:
        raise ModelNotFoundError(
            f"open_clip has {weights!r} for {architecture} outside the hub only. Download "
            f"{config.get('url')} and give open_clip:{architecture}/FILE."
        )
    choices = ((file_name,), *_OPEN_CLIP_WEIGHTS) if file_name else _OPEN_CLIP_WEIGHTS
    files = _Source(repository, name, "clip", access).weights("", choices)
    return Checkpoint(name, "open_clip", files, architecture=architecture, tag=weights)


def import_open_clip(name: str) -> Any:
    """Import open_clip for a model; a `MissingExtraError` has the install command."""
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError(
            f"{name!r} needs open_clip: pip install 'clip2clap[open-clip]' ({one_line(error)})."
        ) from error
    return open_clip
