"""Load a translator of whatever kind its config names."""

import os
from typing import Any

from clip2clap.core.errors import CheckpointError
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator

_KINDS: dict[str, type[Translator]] = {
    kind.__name__: kind
    for kind in (MLPTranslator, LinearTranslator, ResidualTranslator, PriorTranslator)
}


class AutoTranslator:
    """Finds the kind of a translator from its config; not to be instantiated."""

    def __init__(self) -> None:
        raise TypeError("Use AutoTranslator.from_pretrained(folder_or_hub_id).")

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Translator:
        """Load a translator of any kind.

        Args:
            pretrained_model_name_or_path: A folder written by `save_pretrained`, a hub id, or
                `"demo"`, or `"demo-back"` for the demo's from CLAP to CLIP.
            **kwargs: As in `Translator.from_pretrained`.

        Returns:
            The translator, in evaluation mode.

        Raises:
            ModelNotFoundError: If there is no such translator, or the hub can't be reached.
            CheckpointError: If its kind is not known, or as in `Translator.from_pretrained`.
        """
        names = ("subfolder", "revision", "token", "local_files_only", "cache_dir")
        places = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        config = read_config(pretrained_model_name_or_path, **places)
        kind = _KINDS.get(config["_class_name"])
        if kind is None:
            raise CheckpointError(
                f"{pretrained_model_name_or_path} holds a {config['_class_name']}, written by "
                f"clip2clap {config['versions'].get('clip2clap')}; this version loads "
                f"{', '.join(_KINDS)}."
            )
        return kind.from_pretrained(pretrained_model_name_or_path, **kwargs)
