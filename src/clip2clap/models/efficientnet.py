"""Faster inference of transformers' EfficientNet, the demo CLIP's image encoder."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Convolutions and their normalizations, by their names in a block.
_NORMALIZED = {
    "convolution": "batchnorm",
    "expand_conv": "expand_bn",
    "depthwise_conv": "depthwise_norm",
    "project_conv": "project_bn",
    "top_conv": "top_bn",
}


def shorten(model: nn.Module) -> None:
    """Fuse operations of an EfficientNet, with equal outputs up to rounding.

    - In evaluation mode, batch normalization is folded into the convolution before it, at each
      call.
    - Squeeze-and-excite gates that are constantly 1 are skipped: transformers' EfficientNet always
      has them, and EfficientNet-Lite, such as the demo CLIP's, does not.

    Parameters are unchanged, for saving and training; models without these blocks are unchanged.
    """
    for block in model.modules():
        for name, norm_name in _NORMALIZED.items():
            convolution, norm = getattr(block, name, None), getattr(block, norm_name, None)
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                convolution.forward = partial(_convolve, convolution, norm)
                norm.forward = partial(_normalize, norm)
        gate: Any = getattr(block, "squeeze_excite", None)
        if isinstance(gate, nn.Module) and isinstance(gate.expand, nn.Conv2d):
            gate.forward = partial(_pass, gate)


def _convolve(convolution: Any, norm: Any, input: Tensor) -> Tensor:
    if not _is_fixed(norm):
        return type(convolution).forward(convolution, input)
    weight, bias = convolution.weight, convolution.bias
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    if bias is not None:
        shift = shift + bias * scale
    return convolution._conv_forward(input, weight * scale.view(-1, 1, 1, 1), shift)


def _normalize(norm: Any, input: Tensor) -> Tensor:
    return input if _is_fixed(norm) else type(norm).forward(norm, input)


def _is_fixed(norm: Any) -> bool:
    """Return True if the norm's parameters can be folded."""
    # In training it uses batch statistics; under accelerate's hooks its weights are there only
    # while it runs.
    return not (norm.training or hasattr(norm, "_hf_hook"))


def _pass(gate: Any, input: Tensor) -> Tensor:
    weight, bias = gate.expand.weight, gate.expand.bias
    if not weight.is_meta and not weight.any() and bool((torch.sigmoid(bias) == 1).all()):
        return input
    return type(gate).forward(gate, input)
