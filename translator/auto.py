"""Load a translator whose class its config names."""

import os
from importlib import import_module
from typing import Any

from clip2clap.core.errors import CheckpointError
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config

_MODULES = {
    "MLPTranslator": "mlp",
    "LinearTranslator": "linear",
    "ResidualTranslator": "residual",
    "PriorTranslator": "prior",
}


class AutoTranslator:
    """Loader of any translator, with the class named in its config. Not to be instantiated.

    Examples:
        >>> from clip2clap import AutoTranslator
        >>> translator = AutoTranslator.from_pretrained("demo")
        >>> type(translator).__name__, translator.source_dim
        ('MLPTranslator', 512)
    """

    def __init__(self) -> None:
        raise TypeError("Use AutoTranslator.from_pretrained(folder_or_hub_id).")

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Translator:
        """Load a translator of any class.

        Args:
            pretrained_model_name_or_path: Folder written by `save_pretrained`, hub id, `"demo"`
                (from CLIP to CLAP) or `"demo-back"` (from CLAP to CLIP).
            **kwargs: As in `Translator.from_pretrained`.

        Returns:
            The translator, in evaluation mode.

        Raises:
            ModelNotFoundError: If there is no such translator, or the hub cannot be reached.
            CheckpointError: If its class is unknown, or as in `Translator.from_pretrained`.
        """
        places = {name: value for name, value in kwargs.items() if name != "torch_dtype"}
        config = read_config(pretrained_model_name_or_path, **places)
        name = config["_class_name"]
        if name not in _MODULES:
            raise CheckpointError(
                f"{pretrained_model_name_or_path} holds a {name}, written by clip2clap "
                f"{config['versions'].get('clip2clap')}; this version loads {', '.join(_MODULES)}."
            )
        module = import_module(f"clip2clap.translator.{_MODULES[name]}")
        return getattr(module, name).from_pretrained(pretrained_model_name_or_path, **kwargs)
