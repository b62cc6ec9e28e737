"""ESResNeXt and its learned spectrogram, compared with their formulas and with torchvision."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, ResNet

from clip2clap.models.esresnext import HOP_LENGTH, ESResNeXt, FrequencyBSpline


@torch.no_grad()
def disturb(network: nn.Module) -> nn.Module:
    """Give all weights and statistics values that are unlike the initial ones."""
    random = torch.Generator().manual_seed(0)
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight", "bn.weight")):
            value.uniform_(0.5, 1.5, generator=random)
        elif name.endswith(("fbsp.m", "fbsp.fb")):
            value.uniform_(0.2, 2, generator=random)
        elif value.is_floating_point() and not name.endswith("fc"):
            value.add_(0.05 * torch.randn(value.shape, generator=random))
    return network.eval()


def test_wavelets_are_frequency_b_splines():
    spline = disturb(FrequencyBSpline(9))
    assert isinstance(spline, FrequencyBSpline)
    real, imaginary = (part.detach().numpy() for part in spline.wavelets(64))
    t = np.pi * np.linspace(-1, 1, 64) + 1e-8
    parameters = [each.tolist() for each in (spline.m, spline.fb, spline.fc)]
    for row, (m, fb, fc) in enumerate(zip(*parameters, strict=True)):
        argument = fb * t / (m + 1e-8)
        window = (np.sin(argument) / argument).astype(complex) ** m
        expected = np.sqrt(fb) * window * np.exp(-1j * fc * t) / 64**0.5
        np.testing.assert_allclose(real[row] + 1j * imaginary[row], expected, atol=2e-6)


def test_an_untrained_spectrogram_is_of_sinusoids_in_three_bands():
    network = ESResNeXt(8, (1, 1, 1, 1), 8, 2, 4, frequencies=33, win_length=48)
    waveform = torch.randn(1, 3000, generator=torch.Generator().manual_seed(0)) * 0.1
    shown = network.decibels(waveform)
    frames = 1 + int(np.ceil((3000 - 48) / HOP_LENGTH))
    assert shown.shape == (1, 3, 11, frames)
    missing = (frames - 1) * HOP_LENGTH + 48 - 3000
    padded = np.pad(waveform[0].numpy(), (missing // 2, missing - missing // 2))
    # 16-bit samples are scaled to [-1, 1], and padding is after that.
    padded[missing // 2 : missing // 2 + 3000] += (1 + padded[missing // 2 :][:3000]) / 65535
    frame = np.pad(padded[2 * HOP_LENGTH :][:48], (8, 8))
    t = np.pi * np.linspace(-1, 1, 64)
    for frequency in (0, 5, 20, 32):
        power = abs((frame * np.exp(-1j * frequency * t)).sum() / 8) ** 2
        band, row = divmod(frequency, 11)
        np.testing.assert_allclose(shown[0, band, row, 2].item(), 10 * np.log10(power), atol=0.02)


def gate(weights: dict[str, Tensor], name: str, features: Tensor, size: tuple[int, int]) -> Tensor:
    pooled = F.adaptive_max_pool2d(features, size)
    kernel = weights[f"{name}.conv_depth.weight"]
    padding = (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
    depth = F.conv2d(
        pooled, kernel, weights[f"{name}.conv_depth.bias"], padding=padding, groups=len(kernel)
    )
    point = F.conv2d(
        depth, weights[f"{name}.conv_point.weight"], weights[f"{name}.conv_point.bias"]
    )
    normal = F.batch_norm(
        point,
        weights[f"{name}.bn.running_mean"],
        weights[f"{name}.bn.running_var"],
        weights[f"{name}.bn.weight"],
        weights[f"{name}.bn.bias"],
    )
    return torch.sigmoid(normal)


@torch.no_grad()
def test_features_are_torchvisions_resnext_times_attention():
    network = disturb(ESResNeXt(16, (1, 2, 1, 1), frequencies=33, win_length=48))
    weights = network.state_dict()
    reference = ResNet(Bottleneck, [1, 2, 1, 1], num_classes=16, groups=32, width_per_group=4)
    theirs = {name: weights[name] for name in reference.state_dict()}
    reference.load_state_dict(theirs)
    reference.eval()
    waveforms = 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(1))
    features = network.decibels(waveforms)  # pyright: ignore[reportCallIssue]
    features = reference.maxpool(reference.relu(reference.bn1(reference.conv1(features))))
    for stage in range(1, 5):
        out = getattr(reference, f"layer{stage}")(features)
        features = out * gate(weights, f"att{stage}", features, out.shape[-2:])
    pooled = reference.avgpool(features) * gate(weights, "att5", features, (1, 1))
    expected = reference.fc(pooled.flatten(1))
    torch.testing.assert_close(network(waveforms), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_near_the_full_one(dtype: torch.dtype):
    network = disturb(ESResNeXt(16, (1, 1, 1, 1), 8, 2, 4, frequencies=33, win_length=48))
    # Where the splines are of order zero, as at first, the guards matter most.
    network.get_parameter("fbsp.m").zero_()
    waveforms = 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(1))
    whole, half = network(waveforms), network.to(dtype)(waveforms.to(dtype)).float()
    assert F.cosine_similarity(whole, half).min() > 0.99


def test_sizes_are_read_from_the_weights():
    network = ESResNeXt(12, (1, 1, 2, 1), 8, 2, 4, frequencies=33, win_length=48)
    again = ESResNeXt.of(network.state_dict())
    shapes = [{n: w.shape for n, w in each.state_dict().items()} for each in (network, again)]
    assert shapes[0] == shapes[1]
    with pytest.raises(KeyError):
        ESResNeXt.of({"fc.weight": torch.zeros(2, 2)})
