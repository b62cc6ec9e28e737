"""Weights that stay in their safetensors files, and are in memory only while their layer runs."""

import copy
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clip2clap.core.allocator import return_freed_memory

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class StoredTensor:
    """Place of a tensor in a safetensors file: its first byte and its size in bytes."""

    path: Path
    start: int
    size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def read(self) -> Tensor:
        """Map the tensor into memory, for as long as it is referenced."""
        mapped = np.memmap(self.path, np.uint8, "c", self.start, (self.size,))
        return torch.from_numpy(mapped).view(self.dtype).view(self.shape)


def stored_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Return the floating-point tensors of safetensors files by name."""
    found = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, each in header.items():
            start, end = each["data_offsets"]
            if each["dtype"] in _DTYPES and end > start:
                place, dtype = 8 + length + start, _DTYPES[each["dtype"]]
                found[name] = StoredTensor(path, place, end - start, tuple(each["shape"]), dtype)
    return found


def stream_weights(model: nn.Module, stored: dict[str, StoredTensor], dtype: torch.dtype) -> None:
    """Leave a loaded model's weights in their files: each layer maps its own at every call.

    The parameters become NaN placeholders, which take no memory; their dtype and device are those
    of the computation. Threads may share the model. A layer whose weights are not stored under
    their names stays in memory. Freed memory is returned to the system from then on.
    """
    return_freed_memory()
    for prefix, module in model.named_modules():
        own = {name: value for name, value in module._parameters.items() if value is not None}
        names = {name: f"{prefix}.{name}".lstrip(".") for name in own}
        if not own or not stored.keys() >= {*names.values()} or "forward" in vars(module):
            continue
        for name, value in own.items():
            empty = torch.full((), math.nan, dtype=dtype).expand(value.shape)
            module._parameters[name] = nn.Parameter(empty, requires_grad=False)
        module.forward = partial(_forward, module, {k: stored[v] for k, v in names.items()})
    nn.Module.to(model, dtype)


def cast_layer(layer: nn.Module, dtype: torch.dtype) -> None:
    """Cast a layer's parameters, placeholders without memory, and from then on its input."""
    for name, value in layer._parameters.items():
        if value is not None:
            # Elements without distance share memory, which a cast would multiply.
            shares = value.dim() > 0 and not any(value.stride())
            dense = value.flatten()[:1].to(dtype) if shares else value.to(dtype)
            cast = dense.view(()).expand(value.shape) if shares else dense
            layer._parameters[name] = nn.Parameter(cast, requires_grad=value.requires_grad)
    layer.register_forward_pre_hook(_cast_input)


def _cast_input(layer: Any, args: tuple[Tensor, ...]) -> Tensor:
    return args[0].to(layer.weight.dtype)


def _forward(module: nn.Module, places: dict[str, StoredTensor], *args: Any, **kwargs: Any) -> Any:
    # A copy, since another thread may run the same layer.
    running = copy.copy(module)
    del running.forward
    vars(running)["_parameters"] = {**module._parameters}
    for name, place in places.items():
        value = place.read().to(getattr(module, name))
        running._parameters[name] = nn.Parameter(value, requires_grad=False)
    return running.forward(*args, **kwargs)
