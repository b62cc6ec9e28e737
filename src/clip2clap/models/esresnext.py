"""ESResNeXt on a learned spectrogram (fbsp), the audio encoder of AudioCLIP.

After Guzhov et al. (2021), https://arxiv.org/abs/2104.11587 and https://arxiv.org/abs/2106.13043;
their code (MIT license, https://github.com/AndreyGuzhov/AudioCLIP) has the same weights.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HOP_LENGTH = 561
"""Samples between two frames, at 44.1 kHz."""

_EPS = 1e-8
_LEAST_POWER = 1e-18
_EXPANSION = 4
# The spectrogram's frequencies are split into three bands, which take the place of RGB.
_BANDS = 3
# Kernel of each stage's attention: along the frequencies, or along the time.
_ATTENTION = ((3, 1), (1, 5), (3, 1), (1, 5), (3, 5))


class ESResNeXt(nn.Module):
    """ResNeXt with attention over frequencies and times, on the power of a learned spectrogram.

    Args:
        dim: Length of an embedding.
        layers: Blocks of each of the four stages.
        width: Channels after the first convolution.
        groups: Groups of the 3 x 3 convolutions.
        group_width: Channels of a group in the first stage.
        frequencies: Frequencies of the spectrogram.
        win_length: Samples of a frame; it is padded to twice the frequencies less two.
    """

    def __init__(
        self,
        dim: int = 1024,
        layers: tuple[int, ...] = (3, 4, 6, 3),
        width: int = 64,
        groups: int = 32,
        group_width: int = 4,
        frequencies: int = 1025,
        win_length: int = 1654,
    ):
        super().__init__()
        self.fbsp = FrequencyBSpline(frequencies)
        self.register_buffer("window", torch.ones(win_length))
        self.window: Tensor
        self.conv1 = nn.Conv2d(_BANDS, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(layers):
            planes = width * 2**stage
            inner = group_width * 2**stage * groups
            parts = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                parts.append(
                    ResNeXtBlock(
                        planes * _EXPANSION if block else channels,
                        inner,
                        planes * _EXPANSION,
                        stride=stride,
                        groups=groups,
                    )
                )
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
            gate = FrequencyTimeGate(channels, planes * _EXPANSION, _ATTENTION[stage])
            setattr(self, f"att{stage + 1}", gate)
            channels = planes * _EXPANSION
        self.att5 = FrequencyTimeGate(channels, channels, _ATTENTION[-1])
        self.fc = nn.Linear(channels, dim)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> "ESResNeXt":
        """Create the network that weights by their names are of; they are not loaded."""
        stages = [
            {name.split(".")[1] for name in weights if name.startswith(f"layer{stage}.")}
            for stage in range(1, 5)
        ]
        grouped = weights["layer1.0.conv2.weight"].shape
        return cls(
            dim=len(weights["fc.weight"]),
            layers=tuple(len(blocks) for blocks in stages),
            width=len(weights["conv1.weight"]),
            groups=grouped[0] // grouped[1],
            group_width=grouped[1],
            frequencies=len(weights["fbsp.m"]),
            win_length=len(weights["window"]),
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        """Embed waveforms, shape (n, samples), in [-1, 1], as vectors (n, dim)."""
        features = F.relu(self.bn1(self.conv1(self.decibels(waveforms))))
        features = F.max_pool2d(features, 3, stride=2, padding=1)
        for stage in range(1, 5):
            layer: Any = getattr(self, f"layer{stage}")
            gate: Any = getattr(self, f"att{stage}")
            out = layer(features)  # (n, channels, bands, frames)
            features = out * gate(features, out.shape[-2:])
        pooled = F.adaptive_avg_pool2d(features, 1) * self.att5(features, (1, 1))
        return self.fc(pooled.flatten(1))

    def decibels(self, waveforms: Tensor) -> Tensor:
        """Return the power of the spectrogram, shape (n, 3, frequencies // 3, frames), in dB."""
        # The network was trained on 16-bit samples, of which -32,768 and 32,767 are -1 and 1.
        samples = (waveforms.float() * 32768 + 32768) * 2 / 65535 - 1
        spectrum = self.fbsp(self._frames(samples)).transpose(1, 2)  # (n, frequencies, frames)
        rows = spectrum.shape[1] // _BANDS
        power = spectrum[:, : rows * _BANDS].unflatten(1, (_BANDS, rows))
        decibels = 10 * torch.where(power > 0, power, _LEAST_POWER).log10()
        return decibels.to(self.conv1.weight.dtype)

    def _frames(self, samples: Tensor) -> Tensor:
        """Cut samples into windowed frames, shape (n, frames, fft size)."""
        length, size = len(self.window), 2 * (len(self.fbsp.m) - 1)
        count = 1 + max(0, math.ceil((samples.shape[-1] - length) / HOP_LENGTH))
        missing = (count - 1) * HOP_LENGTH + length - samples.shape[-1]
        samples = F.pad(samples, (missing // 2, missing - missing // 2))
        frames = samples.unfold(-1, length, HOP_LENGTH) * self.window.float()
        margin = max(0, size - length)
        return F.pad(frames, (margin // 2, margin - margin // 2))


class FrequencyBSpline(nn.Module):
    """Learned time-frequency transform by frequency B-spline wavelets, initially a Fourier one.

    Args:
        frequencies: Number of wavelets.
    """

    def __init__(self, frequencies: int):
        super().__init__()
        self.m = nn.Parameter(torch.zeros(frequencies))
        """Orders of the splines."""
        self.fb = nn.Parameter(torch.ones(frequencies))
        """Bandwidths."""
        self.fc = nn.Parameter(torch.arange(frequencies, dtype=torch.float32))
        """Center frequencies."""

    def forward(self, frames: Tensor) -> Tensor:
        """Return the power of frames, shape (..., samples), at each frequency."""
        wavelets = self.wavelets(frames.shape[-1])
        return sum(F.linear(frames, part).square() for part in wavelets)  # pyright: ignore[reportReturnType]

    def wavelets(self, samples: int) -> tuple[Tensor, Tensor]:
        """Return the real and imaginary parts of the wavelets, each (frequencies, samples).

        They are in float32 whatever the weights' dtype, in which the guards would vanish.
        """
        line = torch.linspace(-1, 1, samples, dtype=torch.float32, device=self.m.device)
        t = math.pi * line + _EPS
        m, fb, fc = (each.float()[:, None] for each in (self.m, self.fb, self.fc))
        spline = torch.sinc(fb * t / (m + _EPS) / math.pi)
        # A negative value to the power of m is complex.
        size, angle = spline.abs().pow(m), m * math.pi * (spline < 0)
        size = size * fb.sqrt() / samples**0.5
        return size * torch.cos(angle - fc * t), size * torch.sin(angle - fc * t)


class ResNeXtBlock(nn.Module):
    """Residual block: convolutions of 1 x 1, 3 x 3 in groups, and 1 x 1, each normalized."""

    def __init__(self, source: int, inner: int, target: int, *, stride: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(source, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, target, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(target)
        self.downsample = None
        if stride > 1 or source != target:
            self.downsample = nn.Sequential(
                nn.Conv2d(source, target, 1, stride=stride, bias=False), nn.BatchNorm2d(target)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Return features of `target` channels, shape (n, channels, bands, frames)."""
        hidden = F.relu(self.bn1(self.conv1(features)))
        hidden = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(hidden)))))
        return F.relu(hidden + (features if self.downsample is None else self.downsample(features)))


class FrequencyTimeGate(nn.Module):
    """Attention over frequencies or times: gates in (0, 1) from a depthwise convolution."""

    def __init__(self, source: int, target: int, kernel: tuple[int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(source, source, kernel, padding=padding, groups=source)
        self.conv_point = nn.Conv2d(source, target, 1)
        self.bn = nn.BatchNorm2d(target)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Return gates of `target` channels at a size in bands and frames."""
        pooled = F.adaptive_max_pool2d(features, size)
        return self.bn(self.conv_point(self.conv_depth(pooled))).sigmoid()
