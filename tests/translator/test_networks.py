"""Networks of translators against the formulas and the network they come from."""

import pytest
import torch
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.residual import ResidualTranslator

from .builders import embeds, residual, seeded


@pytest.mark.parametrize("hidden", [12, 13, 40])
@pytest.mark.parametrize("bias", [True, False])
def test_a_perceptron_starts_as_a_linear_map(hidden: int, bias: bool):
    linear = LinearTranslator(8, 6, bias=bias)
    network = MLPTranslator(8, 6, hidden_size=hidden)
    network.start_as(linear)
    torch.testing.assert_close(network.translate(embeds()), linear.translate(embeds()))
    # It can learn from there: every weight that has an influence has a gradient.
    loss = network(embeds())[:, 0].sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_narrow_perceptron_starts_as_the_larger_part_of_a_linear_map():
    linear, network = LinearTranslator(8, 6), MLPTranslator(8, 6, hidden_size=5)
    network.start_as(linear)
    left, sizes, right = torch.linalg.svd(linear.linear.weight.detach(), full_matrices=False)
    part = embeds() @ (left[:, :2] * sizes[:2] @ right[:2]).T + linear.linear.bias
    torch.testing.assert_close(network.translate(embeds()), part)
    with pytest.raises(UserError, match="linear map of 8 values to 6, got one of 6 to 8"):
        network.start_as(LinearTranslator(6, 8))
    with pytest.raises(UserError, match="width 1 can't start"):
        MLPTranslator(8, 6, hidden_size=1).start_as(linear)


@pytest.mark.parametrize("hidden", [256, 512])
def test_mlp_equals_the_reference_network(hidden: int):
    translator = MLPTranslator(hidden_size=hidden)
    network = nn.Sequential(
        nn.Linear(512, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, 512),
    )  # fmt: skip
    for ours, theirs in zip(translator.parameters(), network.parameters(), strict=True):
        theirs.data = ours.data.clone()
    x = 3 * torch.randn(7, 512, generator=seeded())
    x_unit = x / x.norm(dim=1, keepdim=True)
    y = network(x_unit)
    torch.testing.assert_close(translator(x), y / y.norm(dim=1, keepdim=True))


def test_residual_equals_its_formula_written_out_and_has_two_million_parameters():
    translator = residual()
    weights = translator.state_dict()

    def linear_layer(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-5).sqrt()

    x = embeds()
    h = linear_layer("enter", 8**0.5 * x / x.norm(dim=1, keepdim=True))
    for block in range(3):
        inner = linear_layer(f"body.{block}.layers.1", standardised(h))
        h = h + linear_layer(f"body.{block}.layers.4", nn.functional.gelu(inner))
    y = linear_layer("leave.1", standardised(h))
    torch.testing.assert_close(translator(x), y / y.norm(dim=1, keepdim=True))
    size = sum(weight.numel() for weight in ResidualTranslator().parameters())
    assert size == pytest.approx(2e6, rel=0.1)


def test_dropout_is_for_training_alone():
    translator = residual()
    assert torch.equal(translator(embeds()), translator(embeds()))
    translator.train()
    assert not torch.equal(translator(embeds()), translator(embeds()))
    with pytest.raises(UserError, match="dropout"):
        ResidualTranslator(8, 6, dropout=1.0)
