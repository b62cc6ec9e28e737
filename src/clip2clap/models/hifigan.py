"""Vocoding by HiFi-GAN as CPUs are fast in it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_WIDE = 64


class ChannelsLast1d(TorchFunctionMode):
    """Context in which 1D convolutions are computed as 2D ones, channels last.

    torch gives a CPU's kernels the input of 1D convolutions channels first, which they reorder at
    every call; 2D ones keep the format of their input. Results differ by rounding.

    Examples:
        >>> import torch
        >>> from clip2clap.models.hifigan import ChannelsLast1d
        >>> convolution, signal = torch.nn.Conv1d(4, 2, 3), torch.randn(1, 8, 4).transpose(1, 2)
        >>> with ChannelsLast1d():
        ...     convolution(signal).stride()
        (12, 1, 2)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Replace a 1D convolution; all else runs as it is."""
        return _IN_2D.get(func, func)(*args, **(kwargs or {}))


def wide_convolutions(vocoder: nn.Module) -> list[nn.Module]:
    """Return the convolutions of residual blocks with 64 channels or more, which take most time.

    They can be in bfloat16 while what the blocks add to stays in float32, as do the layers of fewer
    channels, whose rounding is heard in quiet passages. Of a HiFi-GAN trained on speech the error
    is then 45 to 46 dB below the waveform, and 30 dB in the worst of 257 bands; with all layers in
    bfloat16 39 to 41 dB, and above it in the worst band (`benchmarks/vocoder_precision.py`).

    Args:
        vocoder: `SpeechT5HifiGan`; other vocoders have none.
    """
    blocks = getattr(vocoder, "resblocks", ())
    layers = (layer for block in blocks for layer in (*block.convs1, *block.convs2))
    return [layer for layer in layers if layer.in_channels >= _WIDE]


def _conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    padding = padding if isinstance(padding, str) else _pair(padding, 0)
    sizes = _pair(stride), padding, _pair(dilation)
    return F.conv2d(input.unsqueeze(-2), weight.unsqueeze(-2), bias, *sizes, groups).squeeze(-2)


def _conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    sizes = _pair(stride), _pair(padding, 0), _pair(output_padding, 0), groups, _pair(dilation)
    return F.conv_transpose2d(input.unsqueeze(-2), weight.unsqueeze(-2), bias, *sizes).squeeze(-2)


def _pair(size: Any, first: int = 1) -> tuple[int, int]:
    """Return the 2D size of a 1D one, which is a number or a sequence of one."""
    return first, *(size if isinstance(size, Sequence) else (size,))


_IN_2D: dict[Any, Callable[..., Tensor]] = {
    torch.conv1d: _conv1d,
    torch.conv_transpose1d: _conv_transpose1d,
}
