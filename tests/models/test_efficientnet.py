"""The shortened EfficientNet gives the vectors of the whole one, whatever its weights."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from transformers import EfficientNetConfig, EfficientNetModel

from clip2clap.models.efficientnet import shorten


@pytest.fixture
def whole() -> EfficientNetModel:
    """One with something in each of its weights and statistics, as after training."""
    torch.manual_seed(0)
    config = EfficientNetConfig(
        image_size=32,
        width_coefficient=0.1,
        depth_coefficient=0.1,
        hidden_dim=128,
        hidden_size=128,  # pyright: ignore[reportCallIssue]
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 6],
        drop_connect_rate=0.0,
    )
    model = EfficientNetModel(config).eval()
    change(model)
    return model


def change(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values += 0.3 * torch.randn_like(values)
            module.running_var.uniform_(0.3, 1.5)


def gates(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if hasattr(module, "squeeze_excite"):
            yield module.squeeze_excite


def open_gates(model: nn.Module) -> None:
    for gate in gates(model):
        nn.init.zeros_(gate.expand.weight)
        nn.init.constant_(gate.expand.bias, 20.0)


def shortened(model: nn.Module) -> nn.Module:
    short = deepcopy(model)
    shorten(short)
    return short


def look(model: nn.Module) -> Tensor:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model(pixels).pooler_output


def test_vectors_are_those_of_the_whole_network(whole: EfficientNetModel) -> None:
    torch.testing.assert_close(look(shortened(whole)), look(whole), rtol=1e-4, atol=1e-5)


def test_gates_that_are_open_whatever_they_see_are_passed_by(whole: EfficientNetModel) -> None:
    open_gates(whole)
    short, asked = shortened(whole), []
    for gate in gates(short):
        gate.expand.register_forward_hook(lambda *_: asked.append(1))
    torch.testing.assert_close(look(short), look(whole), rtol=1e-4, atol=1e-5)
    assert not asked


def test_weights_that_change_later_count(whole: EfficientNetModel) -> None:
    open_gates(whole)
    short = shortened(whole)
    change(whole)
    for gate in gates(whole):
        nn.init.normal_(gate.expand.bias)
    short.load_state_dict(whole.state_dict())
    torch.testing.assert_close(look(short), look(whole), rtol=1e-4, atol=1e-5)


def test_training_follows_the_batch_as_before(whole: EfficientNetModel) -> None:
    short = shortened(whole)
    torch.testing.assert_close(look(short.train()), look(whole.train()))
    torch.testing.assert_close(short.state_dict(), whole.state_dict())


def test_gradients_of_weights_are_those_of_the_whole_network(whole: EfficientNetModel) -> None:
    short = shortened(whole)
    for model in (whole, short):
        look(model).square().mean().backward()
    for (name, ours), theirs in zip(short.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda words, name=name: name + words
        )


def test_weights_fetched_part_by_part_are_waited_for(whole: EfficientNetModel) -> None:
    expected = look(whole)
    short = shortened(whole)
    cpu_offload(short, execution_device=torch.device("cpu"))
    torch.testing.assert_close(look(short), expected)
