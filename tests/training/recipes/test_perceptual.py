"""What pictures are compared by when the demo picture decoder learns."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import EfficientNetConfig, EfficientNetModel

from clip2clap.training.recipes.demo.parts import OPEN_GATE
from clip2clap.training.recipes.demo.perceptual import (
    FeatureDiscriminator,
    PerceptualFeatures,
    contest_of_maps,
    looks_apart,
)


def small_network():
    """An EfficientNet with open gates, as Lite0 is, whose batch norms have seen something."""
    torch.manual_seed(0)
    network = EfficientNetModel(
        EfficientNetConfig(
            image_size=96, width_coefficient=1.0, depth_coefficient=0.1, hidden_dim=1280
        )
    )
    for name, parameter in network.named_parameters():
        if ".squeeze_excite." in name:
            nn.init.constant_(parameter, OPEN_GATE if name.endswith("expand.bias") else 0.0)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(4, 3, 96, 96))
    return network.eval()


@pytest.fixture(scope="module")
def eye():
    return PerceptualFeatures(small_network())


def test_the_eye_reads_one_map_a_size_and_the_features_of_the_network(eye):
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    maps, features = eye(pixels)
    assert [layer.shape[-1] for layer in maps] == [24, 12, 6, 3]
    assert [layer.shape[1] for layer in maps] == list(eye.widths)
    large = F.interpolate(pixels, size=96, mode="bilinear", align_corners=False)
    with torch.no_grad():
        whole = small_network()((large * 127.5 + 0.5) / 128).last_hidden_state.mean(dim=(2, 3))
    torch.testing.assert_close(features, whole, atol=1e-4, rtol=1e-3)


def test_the_eye_stays_as_it_is_in_training(eye):
    eye.train()
    assert not any(layer.training for layer in eye.modules())
    assert not any(parameter.requires_grad for parameter in eye.parameters())


def test_a_picture_is_nearer_to_itself_in_noise_than_to_another(eye):
    one, other = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    noisy = one + 0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    seen = eye.layers(one)
    assert looks_apart(seen, seen) == 0
    assert looks_apart(eye.layers(noisy), seen) < 0.5 * looks_apart(eye.layers(other), seen)


def test_the_critic_learns_which_pictures_are_real_and_fit_their_vectors():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(8, 16), dim=1)
    # Real maps show their vectors, made ones show nothing.
    real = [vectors[:, :, None, None].expand(-1, -1, 4, 4).contiguous()]
    made = [0.3 * torch.randn(8, 16, 4, 4)]
    made[0].requires_grad_()
    critic = FeatureDiscriminator((16,), embed_dim=16, channels=32)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)

    def means() -> tuple[float, float, float]:
        with torch.no_grad():
            cases = ((real, vectors), (made, vectors), (real, vectors.roll(1, 0)))
            right, fake, wrong = (critic(maps, told)[0].mean().item() for maps, told in cases)
        return right, fake, wrong

    for _ in range(300):
        optimizer.zero_grad()
        contest_of_maps(critic, made, real, vectors, share=1.0).backward()
        optimizer.step()
    right, fake, wrong = means()
    assert right > fake + 0.5
    assert right > wrong + 0.5


def test_the_contest_has_the_error_for_value_and_pulls_beyond_it():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(4, 16), dim=1)
    real, critic = [torch.randn(4, 8, 6, 6)], FeatureDiscriminator((8,), embed_dim=16)

    def pull(share: float) -> torch.Tensor:
        made = torch.zeros(4, 8, 6, 6, requires_grad=True)
        loss = contest_of_maps(critic, [made], real, vectors, share)
        assert loss.item() == pytest.approx(looks_apart([made], real).item(), rel=1e-5)
        loss.backward()
        assert made.grad is not None
        return made.grad

    alone, with_critic = pull(0.0), pull(1.0)
    push = with_critic - alone
    assert push.norm() == pytest.approx(alone.norm().item(), rel=1e-3)
    assert all(parameter.grad is not None for parameter in critic.parameters())
