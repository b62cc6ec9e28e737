"""Whisper's encoder from a file of CTranslate2, which a package has (see the recipe's page)."""

import struct
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def whisper_encoder(path: Path, *, layers: int, positions: int) -> dict[str, Tensor]:
    """Read the first layers of Whisper's encoder under the names of transformers' `WhisperEncoder`.

    Args:
        path: `model.bin` of CTranslate2.
        layers: First layers that are kept.
        positions: First positions, 20 ms each, that are kept.

    Returns:
        State dict in float32, without the norm after the last layer, which fits all layers only:
        its weights are one and zero.
    """
    read = {name: torch.from_numpy(a.astype(np.float32)) for name, a in _variables(path).items()}
    state = {
        f"conv{number}.{part}": read[f"encoder/conv{number}/{part}"]
        for number in (1, 2)
        for part in ("weight", "bias")
    }
    state["embed_positions.weight"] = read["encoder/position_encodings/encodings"][:positions]
    width = state["conv1.bias"].numel()
    for layer in range(layers):
        state |= _layer(read, f"encoder/layer_{layer}", f"layers.{layer}")
    state["layer_norm.weight"], state["layer_norm.bias"] = torch.ones(width), torch.zeros(width)
    return state


def _layer(read: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    attention, feed_forward = f"{source}/self_attention", f"{source}/ffn"
    state = {}
    for part in ("weight", "bias"):
        query, key, value = read[f"{attention}/linear_0/{part}"].chunk(3)
        state[f"{target}.self_attn.q_proj.{part}"] = query
        state[f"{target}.self_attn.v_proj.{part}"] = value
        if part == "weight":
            state[f"{target}.self_attn.k_proj.{part}"] = key
        state[f"{target}.self_attn.out_proj.{part}"] = read[f"{attention}/linear_1/{part}"]
        state[f"{target}.fc1.{part}"] = read[f"{feed_forward}/linear_0/{part}"]
        state[f"{target}.fc2.{part}"] = read[f"{feed_forward}/linear_1/{part}"]
    for norm, name in ((attention, "self_attn_layer_norm"), (feed_forward, "final_layer_norm")):
        state[f"{target}.{name}.weight"] = read[f"{norm}/layer_norm/gamma"]
        state[f"{target}.{name}.bias"] = read[f"{norm}/layer_norm/beta"]
    return state


def _variables(path: Path) -> dict[str, np.ndarray]:
    """Read a model of CTranslate2: a header, then name, shape, type and bytes of each variable."""
    with path.open("rb") as file:
        _number(file, "I")
        _text(file)
        _number(file, "I")
        variables = {}
        for _ in range(_number(file, "I")):
            name = _text(file)
            shape = [_number(file, "I") for _ in range(_number(file, "B"))]
            kind, size = _number(file, "B"), _number(file, "I")
            variables[name] = np.frombuffer(file.read(size), _TYPES[kind]).reshape(shape)
    return variables


def _number(file: BufferedReader, code: str) -> int:
    return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]


def _text(file: BufferedReader) -> str:
    return file.read(_number(file, "H"))[:-1].decode()
