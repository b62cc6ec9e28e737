"""One-dimensional convolutions computed channels last."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from clip2clap.models.hifigan import ChannelsLast1d, wide_convolutions


def build_vocoder(channels):
    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=channels,
        upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4],
    )
    model: Any = SpeechT5HifiGan(config)
    return model


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.tuples(*(st.integers(1, 3) for _ in range(4))),
    kernel=st.integers(1, 5),
    transposed=st.booleans(),
    seed=st.integers(0, 9),
)
def test_convolutions_equal_those_of_torch(sizes, kernel, transposed, seed):
    groups, stride, dilation, batch = sizes
    generator = torch.Generator().manual_seed(seed)
    options = {"stride": stride, "padding": kernel // 2, "dilation": dilation, "groups": groups}
    signal = torch.randn(batch, 20, 2 * groups, generator=generator).transpose(1, 2)
    inner = 3 if transposed else 2
    weight = torch.randn((2 if transposed else 3) * groups, inner, kernel, generator=generator)
    bias = torch.randn(3 * groups, generator=generator)
    convolve = F.conv_transpose1d if transposed else F.conv1d
    expected = convolve(signal, weight, bias, **options)
    with ChannelsLast1d():
        assert torch.allclose(convolve(signal, weight, bias, **options), expected, atol=1e-5)
        unbatched = convolve(signal[0], weight, bias, **options)
    assert torch.allclose(unbatched, expected[0], atol=1e-5)


def test_named_padding_and_no_bias_work_as_in_torch():
    signal, weight = torch.randn(2, 3, 9), torch.randn(4, 3, 5)
    expected = F.conv1d(signal, weight, padding="same")
    with ChannelsLast1d():
        assert torch.allclose(F.conv1d(signal, weight, padding="same"), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_vocoder_gives_the_same_waveform_and_the_formats_stay_channels_last(dtype):
    torch.manual_seed(0)
    vocoder = build_vocoder(16).to(dtype).eval()
    strides = []
    for block in vocoder.resblocks:
        block.register_forward_hook(lambda module, args, output: strides.append(output.stride(1)))
    mel = torch.randn(2, 12, 8, dtype=dtype)
    expected = vocoder(mel)
    assert set(strides) != {1}
    strides.clear()
    with ChannelsLast1d():
        waveform = vocoder(mel)
    assert set(strides) == {1}
    assert torch.allclose(waveform, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_wide_convolutions_are_those_of_residual_blocks_from_64_channels():
    vocoder = build_vocoder(128)
    wide = {id(layer) for layer in wide_convolutions(vocoder)}
    names = [name for name, layer in vocoder.named_modules() if id(layer) in wide]
    # Three blocks of 64 channels, with three pairs of layers each; the next three have 32.
    assert len(names) == 18
    assert {name.rpartition(".convs")[0] for name in names} == {f"resblocks.{n}" for n in range(3)}
    assert wide_convolutions(torch.nn.Linear(2, 2)) == []
