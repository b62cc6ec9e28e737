"""Saving and loading of translators: `config.json`, which has their provenance, and weights."""

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from clip2clap.core.errors import CheckpointError, UserError, one_line
from clip2clap.core.files import replacing, save_tensors
from clip2clap.core.version import __version__
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.card import push, write_card
from clip2clap.translator.checkpoint import (
    CONFIG_FILE,
    FORMAT_VERSION,
    REMEDY,
    find_folder,
    load_weights,
    read_config,
    upgrade_config,
    weights_file,
)


def library_versions() -> dict[str, str]:
    """Return the versions of clip2clap and of the libraries that a translator depends on."""
    versions = {"torch": torch.__version__, "diffusers": metadata.version("diffusers")}
    return {"clip2clap": __version__, **versions}


@dataclass(frozen=True)
class Provenance:
    """Facts about a translator that do not change what it computes.

    Attributes:
        source_space: Space of the input embeddings.
        target_space: Space of the output embeddings.
        recipe: Training or fitting settings.
        metrics: Retrieval metrics on held-out pairs.
        data: Fingerprint of the training pairs.
        versions: Library versions at training.

    Examples:
        >>> from clip2clap.translator import MLPTranslator, Provenance
        >>> translator = MLPTranslator(provenance=Provenance(recipe={"method": "mlp"}))
        >>> translator.config["recipe"]
        {'method': 'mlp'}
    """

    source_space: EmbeddingSpace | None = None
    target_space: EmbeddingSpace | None = None
    recipe: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    data: str | None = None
    versions: dict[str, str] = field(default_factory=library_versions)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the facts from a translator's config; other keys are ignored.

        Raises:
            UserError: If a space is broken.
        """
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        for side in ("source_space", "target_space"):
            if side in known:
                known[side] = EmbeddingSpace.from_dict(known[side])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain values, for `config.json`."""
        return plain(asdict(self))


def plain(value: Any) -> Any:
    """Return a value with the numbers and arrays of NumPy in it as Python's, which JSON has.

    Examples:
        >>> plain({"epochs": np.int64(20), "weights": (np.zeros(2), "x")})
        {'epochs': 20, 'weights': ([0.0, 0.0], 'x')}
    """
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


class SavedModule(nn.Module):
    """Torch module that is saved, loaded and pushed to the hub as a diffusers model is.

    Args:
        arguments: The subclass's `locals()`: its provenance, and the options for `config.json`.
    """

    renamed_weights: ClassVar[dict[str, str]] = {}
    """New name of each weight that older versions saved under another one."""

    def __init__(self, arguments: Mapping[str, Any]):
        super().__init__()
        self._options = plain({name: arguments[name] for name in self._option_names()})
        self._provenance: Provenance = arguments["provenance"] or Provenance()
        self.name_or_path = ""
        """Name that the module was loaded by."""

    @property
    def provenance(self) -> Provenance:
        """Spaces, recipe, metrics, data and versions, which `config.json` keeps."""
        return self._provenance

    @property
    def config(self) -> dict[str, Any]:
        """Contents of `config.json`: class, format, options and provenance, as plain values."""
        return {
            "_class_name": type(self).__name__,
            "_format_version": FORMAT_VERSION,
            "_name_or_path": self.name_or_path,
            **self._options,
            **self.provenance.to_dict(),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a translator with new weights from a config.

        Args:
            config: `config` of another translator or contents of a `config.json`, of any format.
        """
        config = upgrade_config(config, cls.__name__)
        options = {name: config[name] for name in cls._option_names() if name in config}
        return cls(**{**options, "provenance": Provenance.from_dict(config)})

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        torch_dtype: torch.dtype | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        **access: Any,
    ) -> Self:
        """Load a translator with exactly the weights that its config describes.

        Args:
            pretrained_model_name_or_path: Folder written by `save_pretrained`, hub id, `"demo"`
                (from CLIP to CLAP) or `"demo-back"` (from CLAP to CLIP).
            torch_dtype: Data type of the weights; float32 if None.
            subfolder: Folder of the translator inside a folder or repository.
            variant: Weights variant, such as `"fp16"`.
            **access: `revision` (branch, tag or commit on the hub), `token`, `cache_dir`,
                `local_files_only` and `force_download`, as the hub's functions take them.

        Returns:
            The translator, on the CPU, in evaluation mode.

        Raises:
            ModelNotFoundError: If there is no such translator, or the hub cannot be reached.
            CheckpointError: If its class, its config or a weight is not as expected.
        """
        if torch_dtype is not None and not (
            isinstance(torch_dtype, torch.dtype) and torch_dtype.is_floating_point
        ):
            raise UserError(
                f"Expected torch_dtype to be such as torch.float16, got {torch_dtype!r}.",
                param="torch_dtype",
            )
        name = pretrained_model_name_or_path
        folder = find_folder(name, subfolder=subfolder, variant=variant, **access)
        config = read_config(folder)
        cls._check_config(config, folder)
        try:
            with torch.device("meta"):
                translator = cls.from_config(config)
        except UserError as error:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} describes no {cls.__name__}: {one_line(error)} {REMEDY}"
            ) from error
        shapes = {key: tuple(w.shape) for key, w in translator.state_dict().items()}
        weights = load_weights(folder, variant, shapes, renamed=cls.renamed_weights)
        translator.load_state_dict(weights, assign=True)
        translator.name_or_path = os.fspath(name)
        return translator.to(torch_dtype or torch.float32).eval()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        variant: str | None = None,
        safe_serialization: bool = True,
        license: str | None = None,
        name: str | None = None,
    ) -> None:
        """Write `config.json`, one safetensors file, and a model card.

        Args:
            save_directory: Output folder; created if missing.
            variant: Weights variant, such as `"fp16"`, which becomes part of the file name.
            safe_serialization: Must be True: a translator is never pickled.
            license: Identifier of the license for the card, such as `cc-by-4.0`.
            name: Title of the card; the folder if None. A card that you edited is kept.

        Raises:
            UserError: If `save_directory` is a file, or `safe_serialization` is False.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise UserError(f"{folder} is a file; give a folder.", param="save_directory")
        if not safe_serialization:
            raise UserError("A translator is saved as safetensors only: leave safe_serialization.")
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: weight.contiguous() for key, weight in self.state_dict().items()}
        save_tensors(weights, folder / weights_file(variant), {"format": "pt"})
        text = json.dumps(self.config, indent=2, sort_keys=True) + "\n"
        with replacing(folder / CONFIG_FILE) as partial:
            partial.write_text(text, encoding="utf-8")
        name = name or folder.resolve().name
        usage = (
            "from clip2clap import AutoTranslator\n\n"
            f"translator = AutoTranslator.from_pretrained({json.dumps(name)})\n"
            "target_embeds = translator(source_embeds)"
        )
        write_card(folder, name, usage, self.config, license=license)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload translator",
        private: bool | None = None,
        token: str | bool | None = None,
        variant: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
    ) -> str:
        """Upload the translator to the Hugging Face hub; the repository is created if missing.

        Args:
            repo_id: Repository, such as `"owner/name"`.
            commit_message: Summary of the commit.
            private: Make a new repository private; the account's default if None.
            token: Access token; the stored one if None.
            variant: Weights variant, such as `"fp16"`.
            create_pr: Open a pull request in place of a commit.
            license: Identifier of the license for the card, such as `cc-by-4.0`.

        Returns:
            The address of the commit.
        """
        return push(
            lambda folder, name: self.save_pretrained(
                folder, variant=variant, license=license, name=name
            ),
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            create_pr=create_pr,
        )

    @classmethod
    def _option_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls).parameters if name != "provenance"]

    @classmethod
    def _check_config(cls, config: Mapping[str, Any], folder: Path) -> None:
        if config["_class_name"] != cls.__name__:
            raise CheckpointError(
                f"{folder} holds a {config['_class_name']}, not a {cls.__name__}. Load it with "
                "AutoTranslator.from_pretrained."
            )
        known = {*cls._option_names(), *(f.name for f in fields(Provenance))}
        unknown = [key for key in config if not key.startswith("_") and key not in known]
        if unknown:
            raise CheckpointError(
                f"{folder} has settings that this version of clip2clap ({__version__}) doesn't "
                f"know: {', '.join(unknown)}. It was written by version "
                f"{config['versions'].get('clip2clap')}: install that one."
            )
