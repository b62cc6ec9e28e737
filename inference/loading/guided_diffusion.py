"""Checkpoints of OpenAI's guided diffusion as diffusers' `UNet2DModel`."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.hub import quiet
from clip2clap.embeddings.weights import check_shapes

# Channels of an attention head, and groups of a normalization, in all published checkpoints.
_HEAD_CHANNELS, _GROUPS = 64, 32
_PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "norm": "group_norm",
}
_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}


def load_guided_diffusion(path: str | os.PathLike[str]) -> Any:
    """Load an unconditional model of pixels, such as OpenAI's `256x256_diffusion_uncond.pt`.

    Dhariwal and Nichol (2021), https://arxiv.org/abs/2105.05233. The sizes are read from the
    weights: residual blocks that scale, scale-and-shift of the time embedding, and attention heads
    of 64 channels are expected, as in their published flags. Nothing is unpickled but tensors.

    Args:
        path: Checkpoint: a `.pt` file of weights, or the same as `.safetensors`.

    Returns:
        `UNet2DModel`, in evaluation mode, on the CPU, in float32.

    Raises:
        ModelNotFoundError: If there is no such file.
        CheckpointError: If it is of another layout or class-conditional, or a weight is missing,
            unexpected or of another size.
    """
    from diffusers import UNet2DModel

    weights = {name: value.float() for name, value in _read(as_path(os.fspath(path))).items()}
    config = _config(weights, str(path))
    with quiet():
        model = UNet2DModel(**config)
    converted = dict(_convert(weights, config))
    expected = {name: value.shape for name, value in model.state_dict().items()}
    check_shapes(str(path), converted, expected)
    model.load_state_dict(converted)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelNotFoundError(
            f"There is no file {path}. Give a checkpoint such as 256x256_diffusion_uncond.pt."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as weights: {one_line(error)}") from error
    if not isinstance(found, Mapping) or not all(isinstance(v, Tensor) for v in found.values()):
        raise CheckpointError(f"{path} holds no weights by name.")
    return dict(found)


def _config(weights: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """Return the sizes of a model, as its weights tell them."""
    if "label_emb.weight" in weights:
        raise CheckpointError(f"{name} is class-conditional. Give the unconditional model.")
    inputs = _count(weights, "input_blocks")
    # The last block of a level has a second residual block, which scales up.
    period = next((at + 1 for at in range(inputs) if _upsampler(weights, at) is not None), 0)
    if "input_blocks.0.0.weight" not in weights or not period or inputs % period:
        raise CheckpointError(
            f"{name} is not of guided diffusion's layout with residual blocks that scale "
            "(resblock_updown)."
        )
    levels = inputs // period
    firsts = [1 + level * period for level in range(levels)]
    channels = [len(weights[f"input_blocks.{at}.0.out_layers.3.bias"]) for at in firsts]
    has_attention = [f"input_blocks.{at}.1.qkv.weight" in weights for at in firsts]
    first = weights["input_blocks.0.0.weight"]
    downs = ["AttnDownBlock2D" if each else "ResnetDownsampleBlock2D" for each in has_attention]
    ups = ["AttnUpBlock2D" if each else "ResnetUpsampleBlock2D" for each in has_attention]
    return {
        # The weights do not tell it; a side at which the last level has 8 pixels, as published.
        "sample_size": 8 * 2 ** (levels - 1),
        "in_channels": first.shape[1],
        "out_channels": len(weights["out.2.bias"]),
        "block_out_channels": tuple(channels),
        "layers_per_block": period - 1,
        "down_block_types": tuple(downs),
        "up_block_types": tuple(reversed(ups)),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": _HEAD_CHANNELS,
        "norm_num_groups": _GROUPS,
        "attn_norm_num_groups": _GROUPS,
        "norm_eps": 1e-5,
        "freq_shift": 0,
        "flip_sin_to_cos": True,
    }


def _count(weights: Mapping[str, Tensor], group: str) -> int:
    found = (re.match(rf"{group}\.(\d+)\.", name) for name in weights)
    return max((int(match[1]) for match in found if match), default=-1) + 1


def _upsampler(weights: Mapping[str, Tensor], at: int) -> int | None:
    """Return the place of the residual block that scales up in an output block, if it has one."""
    places = (
        place for place in (1, 2) if f"output_blocks.{at}.{place}.in_layers.0.weight" in weights
    )
    return next(places, None)


def _convert(
    weights: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """Yield weights under the names of `UNet2DModel`; unknown ones keep theirs."""
    modules = dict(_modules(weights, config["layers_per_block"]))
    for name, value in weights.items():
        module, _, kind = name.rpartition(".")
        block = next((each for each in modules if module.startswith(f"{each}.")), None)
        part = module.removeprefix(f"{block}.")
        if module in _ENDS:
            yield f"{_ENDS[module]}.{kind}", value
        elif block is None:
            yield name, value
        elif part == "qkv":
            for own, rows in zip("qkv", _split_heads(value), strict=True):
                yield f"{modules[block]}.to_{own}.{kind}", rows
        elif part == "proj_out":
            flat = value.flatten(1) if value.ndim > 1 else value
            yield f"{modules[block]}.to_out.0.{kind}", flat
        else:
            yield f"{modules[block]}.{_PARTS.get(part, part)}.{kind}", value


def _split_heads(value: Tensor) -> Iterator[Tensor]:
    """Split joint queries, keys and values, which are side by side for each head."""
    value = value.flatten(1) if value.ndim > 1 else value
    heads = len(value) // (3 * _HEAD_CHANNELS)
    grouped = value.unflatten(0, (heads, 3, _HEAD_CHANNELS))
    return (own.flatten(0, 1) for own in grouped.unbind(1))


def _modules(weights: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, str]]:
    """Yield the names of residual and attention blocks, and theirs in `UNet2DModel`."""
    period = layers + 1
    for at in range(1, _count(weights, "input_blocks")):
        level, place = divmod(at - 1, period)
        block = f"down_blocks.{level}"
        if place == layers:
            yield f"input_blocks.{at}.0", f"{block}.downsamplers.0"
        else:
            yield f"input_blocks.{at}.0", f"{block}.resnets.{place}"
            yield f"input_blocks.{at}.1", f"{block}.attentions.{place}"
    for at, own in enumerate(("resnets.0", "attentions.0", "resnets.1")):
        yield f"middle_block.{at}", f"mid_block.{own}"
    for at in range(_count(weights, "output_blocks")):
        level, place = divmod(at, period)
        block = f"up_blocks.{level}"
        yield f"output_blocks.{at}.0", f"{block}.resnets.{place}"
        upsampler = _upsampler(weights, at)
        if upsampler != 1:
            yield f"output_blocks.{at}.1", f"{block}.attentions.{place}"
        if upsampler is not None:
            yield f"output_blocks.{at}.{upsampler}", f"{block}.upsamplers.0"
