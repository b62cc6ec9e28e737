"""Perceptual features and the discriminator that the demo image decoder is tuned with."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import EfficientNetConfig, EfficientNetModel

from clip2clap.training.recipes.demo.perceptual import (
    FeatureDiscriminator,
    PerceptualFeatures,
    adversarial_loss,
    perceptual_distance,
)
from clip2clap.training.recipes.demo.pretrained import OPEN_GATE


def small_network():
    """Build an EfficientNet with open gates, as Lite0's, and set its batch statistics."""
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
def perceptual():
    return PerceptualFeatures(small_network())


def test_there_is_one_map_per_resolution_and_the_features_of_the_network(perceptual):
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    maps, features = perceptual(pixels)
    assert [layer.shape[-1] for layer in maps] == [24, 12, 6, 3]
    assert [layer.shape[1] for layer in maps] == list(perceptual.widths)
    large = F.interpolate(pixels, size=96, mode="bilinear", align_corners=False)
    with torch.no_grad():
        whole = small_network()((large * 127.5 + 0.5) / 128).last_hidden_state.mean(dim=(2, 3))
    torch.testing.assert_close(features, whole, atol=1e-4, rtol=1e-3)


def test_perceptual_features_stay_in_evaluation_mode(perceptual):
    perceptual.train()
    assert not any(layer.training for layer in perceptual.modules())
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


def test_an_image_is_nearer_to_itself_in_noise_than_to_another(perceptual):
    one, other = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    noisy = one + 0.05 * torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    seen = perceptual.maps(one)
    assert perceptual_distance(seen, seen) == 0
    assert perceptual_distance(perceptual.maps(noisy), seen) < 0.5 * perceptual_distance(
        perceptual.maps(other), seen
    )


def test_the_discriminator_learns_real_images_and_their_conditions():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(8, 16), dim=1)
    # Real maps equal their embeddings, generated ones are noise.
    real = [vectors[:, :, None, None].expand(-1, -1, 4, 4).contiguous()]
    made = [0.3 * torch.randn(8, 16, 4, 4)]
    made[0].requires_grad_()
    discriminator = FeatureDiscriminator((16,), embed_dim=16, channels=32)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)

    def means() -> tuple[float, float, float]:
        with torch.no_grad():
            cases = ((real, vectors), (made, vectors), (real, vectors.roll(1, 0)))
            right, fake, wrong = (
                discriminator(maps, embeds)[0].mean().item() for maps, embeds in cases
            )
        return right, fake, wrong

    for _ in range(60):
        optimizer.zero_grad()
        adversarial_loss(discriminator, made, real, vectors, weight=1.0).backward()
        optimizer.step()
    right, fake, wrong = means()
    assert right > fake + 0.5
    assert right > wrong + 0.5


def test_the_adversarial_loss_adds_a_gradient_of_the_given_norm():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(4, 16), dim=1)
    real, discriminator = [torch.randn(4, 8, 6, 6)], FeatureDiscriminator((8,), embed_dim=16)

    def pull(weight: float) -> torch.Tensor:
        made = torch.zeros(4, 8, 6, 6, requires_grad=True)
        loss = adversarial_loss(discriminator, [made], real, vectors, weight)
        assert loss.item() == pytest.approx(perceptual_distance([made], real).item(), rel=1e-5)
        loss.backward()
        assert made.grad is not None
        return made.grad

    alone, with_discriminator = pull(0.0), pull(1.0)
    push = with_discriminator - alone
    assert push.norm() == pytest.approx(alone.norm().item(), rel=1e-3)
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
