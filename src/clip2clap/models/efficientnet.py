"""The image tower of transformers' EfficientNet, such as the demo CLIP's, in fewer steps."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Convolutions and what normalises their outputs, by their names in one block.
_NORMALIZED = {
    "convolution": "batchnorm",
    "expand_conv": "expand_bn",
    "depthwise_conv": "depthwise_norm",
    "project_conv": "project_bn",
    "top_conv": "top_bn",
}


def shorten(model: nn.Module) -> None:
    """Have an EfficientNet take fewer steps to the same vectors.

    - Normalisation of a trained network multiplies and shifts each channel: the convolution before
      it does both at once, with weights that are scaled at each call.
    - EfficientNet-Lite has no squeeze-and-excite gates and transformers' EfficientNet always has:
      those that are 1 whatever they see, as the demo CLIP's, are passed by.

    Parameters stay as they are, for saving and for training; a model that has none of these blocks
    is left alone.
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
    """Tell whether a convolution can count on the norm's values."""
    # In training it follows the batch; under a hook of accelerate's it has its weights only while
    # it runs itself.
    return not (norm.training or hasattr(norm, "_hf_hook"))


def _pass(gate: Any, input: Tensor) -> Tensor:
    weight, bias = gate.expand.weight, gate.expand.bias
    if not weight.is_meta and not weight.any() and bool((torch.sigmoid(bias) == 1).all()):
        return input
    return type(gate).forward(gate, input)
