"""Weights of an IP-Adapter."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError, one_line
from clip2clap.core.files import as_path, save_tensors
from clip2clap.inference.compatibility import PathOrId

_FILE = "ip_adapter.safetensors"
_PROJECTION = "image_proj.proj.weight"


class IPAdapterWeights:
    """Weights of an IP-Adapter, as they were published.

    Args:
        tensors: Tensors by name, those of `image_proj` and `ip_adapter`.

    Raises:
        CheckpointError: If they are no IP-Adapter for image embeddings.
    """

    def __init__(self, tensors: dict[str, Tensor]):
        if _PROJECTION not in tensors:
            raise CheckpointError(
                f"The IP-Adapter has no {_PROJECTION}: it accepts no CLIP image embedding. "
                "Use a plain one, such as ip-adapter_sd15.safetensors; those called plus, full or "
                "face take more than an embedding."
            )
        self.tensors = tensors

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: PathOrId, *, torch_dtype: Any = None, **access: Any
    ) -> "IPAdapterWeights":
        """Load the weights.

        Args:
            pretrained_model_name_or_path: Safetensors file, folder that `save_pretrained` wrote, or
                OWNER/REPOSITORY/PATH on the hub.
            torch_dtype: Ignored: the UNet casts the weights to its own.
            **access: `token` and `local_files_only`, as in diffusers.

        Raises:
            ModelNotFoundError: If there is no such file on disk and none can be downloaded.
            CheckpointError: If the file is unreadable, or no IP-Adapter for image embeddings.
        """
        from safetensors.torch import load_file

        name = os.fspath(pretrained_model_name_or_path)
        path = as_path(name)
        if path.is_dir():
            path = path / _FILE
        if not path.is_file():
            path = _download(name, **access)
        try:
            return cls(load_file(path))
        except UserError:
            raise
        except Exception as error:
            raise CheckpointError(f"{path} is unreadable: {one_line(error)}") from error

    def save_pretrained(self, save_directory: PathOrId, **_: Any) -> None:
        """Save the weights into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self.tensors, folder / _FILE)

    @property
    def embed_dim(self) -> int:
        """Dimension of the image embeddings."""
        return self.tensors[_PROJECTION].shape[1]

    def by_part(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights in the format of diffusers' `load_ip_adapter`."""
        parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, value in self.tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value
        return parts


def _download(name: str, **access: Any) -> Path:
    from clip2clap.core.hub import fetch

    owner, repository, file = (*name.split("/", 2), "", "")[:3]
    hint = (
        "Give a .safetensors file, or one on the hub such as "
        "h94/IP-Adapter/models/ip-adapter_sd15.safetensors."
    )
    if not file.endswith(".safetensors") or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(f"There is no IP-Adapter {name!r}. {hint}")
    return fetch(f"{owner}/{repository}", lambda _: [file], hint=hint, name=name, **access) / file
