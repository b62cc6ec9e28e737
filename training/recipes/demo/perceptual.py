"""Perceptual features of images, from EfficientNet-Lite0, and a discriminator on them.

Generated images are compared with real ones by the features of a trained network (Dosovitskiy and
Brox 2016, https://arxiv.org/abs/1602.02644). A discriminator on the same features trains in a
fraction of the time of one on pixels (projected GANs: Sauer et al. 2021,
https://arxiv.org/abs/2111.01007).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.efficientnet import shorten

# A fifth of the cost of the 224 that the network was trained at.
SIZE = 96


class PerceptualFeatures(nn.Module):
    """Feature maps of a frozen EfficientNet-Lite0, one of each resolution.

    Args:
        network: EfficientNet-Lite0 (`pretrained.efficientnet_lite0`).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)
        shorten(network)
        # The last block of each resolution but the finest: a quarter of the image's, an eighth...
        outputs = self._blocks(torch.zeros(1, 3, SIZE, SIZE))
        last = {output.shape[-1]: number for number, output in enumerate(outputs)}
        self.taps = tuple(last.values())[1:]
        self.widths = tuple(outputs[tap].shape[1] for tap in self.taps)

    def train(self, mode: bool = True) -> "PerceptualFeatures":
        """Stay in evaluation mode: the batch statistics are ImageNet's."""
        return super().train(False)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Map images (n, 3, height, width) within [-1, 1] to feature maps, each (n, c, h, w)."""
        outputs = self._blocks(pixels)
        return [outputs[tap] for tap in self.taps]

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Map images (n, 3, height, width) within [-1, 1] to feature maps and features.

        Returns:
            The maps, each (n, c, h, w), and the features (n, 1280) that the demo CLIP's space is a
            linear map of.
        """
        outputs = self._blocks(pixels)
        top = self.network.encoder
        features = top.top_activation(top.top_bn(top.top_conv(outputs[-1]))).mean(dim=(2, 3))
        return [outputs[tap] for tap in self.taps], features

    def _blocks(self, pixels: Tensor) -> list[Tensor]:
        resized = F.interpolate(pixels, size=SIZE, mode="bilinear", align_corners=False)
        # The network's own scale: (x - 127) / 128 of bytes.
        resized = (resized * 127.5 + 0.5) / 128
        hidden = self.network.embeddings(resized.contiguous(memory_format=torch.channels_last))
        outputs = []
        for block in self.network.encoder.blocks:
            hidden = block(hidden)
            outputs.append(hidden)
        return outputs


def perceptual_distance(maps: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Compute the mean absolute error of feature maps, relative to the real maps' scale."""
    errors = [F.l1_loss(a, b) / b.abs().mean() for a, b in zip(maps, real, strict=True)]
    return torch.stack(errors).mean()


class FeatureDiscriminator(nn.Module):
    """Discriminator on perceptual feature maps, conditioned on embeddings.

    One head per map. A head's score is raised where its map agrees with the embedding (projection
    discriminator: Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637).

    Args:
        widths: Channels of the feature maps, from the finest on.
        embed_dim: Size of the embeddings.
        channels: Width of a head.
    """

    def __init__(self, widths: Sequence[int], embed_dim: int, channels: int = 64):
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.heads = nn.ModuleList(
            nn.Sequential(
                normed(nn.Conv2d(width, channels, 1)),
                nn.LeakyReLU(0.2),
                # The finest map is halved; otherwise it would be 90 % of the run time.
                normed(nn.Conv2d(channels, channels, 3, stride=2 if n == 0 else 1, padding=1)),
                nn.LeakyReLU(0.2),
            )
            for n, width in enumerate(widths)
        )
        self.scores = nn.ModuleList(normed(nn.Conv2d(channels, 1, 1)) for _ in widths)
        self.projections = nn.ModuleList(nn.Linear(embed_dim, channels) for _ in widths)

    def forward(self, maps: Sequence[Tensor], embeds: Tensor) -> list[Tensor]:
        """Compute one score for each place of each feature map.

        Args:
            maps: `PerceptualFeatures.maps` of images.
            embeds: The images' conditions, shape (n, embed_dim), unit norm.

        Returns:
            Scores, shapes (n, h, w).
        """
        scores = []
        parts = zip(maps, self.heads, self.scores, self.projections, strict=True)
        for layer, head, score, projection in parts:
            # The maps' scale differs from layer to layer.
            hidden = head(layer / layer.detach().std().clamp(min=1e-6))
            agreement = (hidden * projection(embeds)[:, :, None, None]).sum(dim=1)
            scores.append(score(hidden)[:, 0] + agreement)
        return scores


def adversarial_loss(
    discriminator: FeatureDiscriminator,
    maps: Sequence[Tensor],
    real: Sequence[Tensor],
    embeds: Tensor,
    weight: float,
) -> Tensor:
    """Compute one loss that trains the generator and the discriminator together (hinge losses).

    The gradient of the adversarial term is scaled to that of `perceptual_distance`, as in VQGAN
    (Esser et al. 2021, https://arxiv.org/abs/2012.09841). Real images with another image's
    embedding count as fake.

    Args:
        discriminator: The discriminator.
        maps: Feature maps of generated images, with a gradient.
        real: Feature maps of the real images.
        embeds: The conditions, shape (n, d), unit norm.
        weight: Norm of the adversarial gradient, relative to that of `perceptual_distance`.

    Returns:
        A scalar whose value is `perceptual_distance` and whose gradient is that of both networks'
        losses.
    """
    leaves = [layer.detach().requires_grad_() for layer in maps]
    frozen = {name: value.detach() for name, value in discriminator.named_parameters()}
    score = _mean(torch.func.functional_call(discriminator, frozen, (leaves, embeds)))
    distance = perceptual_distance(leaves, real)
    distance_grads = torch.autograd.grad(distance, leaves)
    score_grads = torch.autograd.grad(-score, leaves)
    scale = weight * _norm(distance_grads) / _norm(score_grads).clamp(min=1e-8)
    grads = zip(maps, distance_grads, score_grads, strict=True)
    generator_loss = torch.stack([(m * (a + scale * b)).sum() for m, a, b in grads]).sum()
    fake = [layer.detach() for layer in maps]
    discriminator_loss = (
        _mean([F.relu(1 - score) for score in discriminator(real, embeds)])
        + 0.5 * _mean([F.relu(1 + score) for score in discriminator(fake, embeds)])
        + 0.5 * _mean([F.relu(1 + score) for score in discriminator(real, embeds.roll(1, 0))])
    )
    gradient_only = [loss - loss.detach() for loss in (generator_loss, discriminator_loss)]
    return distance.detach() + gradient_only[0] + gradient_only[1]


def _mean(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.float().mean() for score in scores]).mean()


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([gradient.norm() for gradient in gradients]).norm()
