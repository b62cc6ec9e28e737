"""The eye and the critic of pictures: EfficientNet-Lite0's layers, and heads that look at them.

Pictures are compared with photographs by what a trained network sees in them, since pixels say
little of what is shown: Dosovitskiy and Brox 2016 (https://arxiv.org/abs/1602.02644). A critic that
looks through the same layers learns in a fraction of the time of one that looks at pixels:
projected GANs (Sauer et al. 2021, https://arxiv.org/abs/2111.01007).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.efficientnet import shorten

# What the layers see at this size costs a fifth of what they see at the 224 they were trained at.
SIZE = 96


class PerceptualFeatures(nn.Module):
    """What EfficientNet-Lite0 sees in pictures, layer by layer; it learns nothing itself.

    Args:
        network: EfficientNet-Lite0 (`parts.efficientnet_lite0`).
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network: Any = network.eval().requires_grad_(False)
        shorten(network)
        # The last block of each size but the finest: a quarter of the picture's, an eighth, ...
        made = self._blocks(torch.zeros(1, 3, SIZE, SIZE))
        last = {layer.shape[-1]: number for number, layer in enumerate(made)}
        self.taps = tuple(last.values())[1:]
        self.widths = tuple(made[tap].shape[1] for tap in self.taps)

    def train(self, mode: bool = True) -> "PerceptualFeatures":
        """Stay in evaluation mode: the batch statistics are ImageNet's."""
        return super().train(False)

    def layers(self, pixels: Tensor) -> list[Tensor]:
        """Look at pictures (n, 3, height, width) within [-1, 1]: one map (n, c, h, w) a tap."""
        made = self._blocks(pixels)
        return [made[tap] for tap in self.taps]

    def forward(self, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
        """Look at pictures (n, 3, height, width) within [-1, 1].

        Returns:
            One map (n, c, h, w) a tap, and the features (n, 1280) that the demo CLIP's space is a
            linear map of.
        """
        made = self._blocks(pixels)
        top = self.network.encoder
        features = top.top_activation(top.top_bn(top.top_conv(made[-1]))).mean(dim=(2, 3))
        return [made[tap] for tap in self.taps], features

    def _blocks(self, pixels: Tensor) -> list[Tensor]:
        seen = F.interpolate(pixels, size=SIZE, mode="bilinear", align_corners=False)
        # The network's own scale: (x - 127) / 128 of bytes.
        seen = (seen * 127.5 + 0.5) / 128
        hidden = self.network.embeddings(seen.contiguous(memory_format=torch.channels_last))
        made = []
        for block in self.network.encoder.blocks:
            hidden = block(hidden)
            made.append(hidden)
        return made


def looks_apart(made: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Compare what the eye sees in two pictures: mean absolute error, relative, over the taps."""
    apart = [F.l1_loss(a, b) / b.abs().mean() for a, b in zip(made, real, strict=True)]
    return torch.stack(apart).mean()


class FeatureDiscriminator(nn.Module):
    """Tells real pictures from made ones by the eye's maps, and whether they fit their vectors.

    One head a tap; a head's verdict is raised where its map agrees with the vector (projection
    discriminator: Miyato and Koyama 2018, https://arxiv.org/abs/1802.05637).

    Args:
        widths: Channels of the eye's maps, from the finest on.
        embed_dim: Size of the vectors.
        channels: Width of a head.
    """

    def __init__(self, widths: Sequence[int], embed_dim: int, channels: int = 64):
        super().__init__()
        normed = nn.utils.parametrizations.spectral_norm
        self.heads = nn.ModuleList(
            nn.Sequential(
                normed(nn.Conv2d(width, channels, 1)),
                nn.LeakyReLU(0.2),
                # The finest map is halved: nine tenths of the cost would be its.
                normed(nn.Conv2d(channels, channels, 3, stride=2 if n == 0 else 1, padding=1)),
                nn.LeakyReLU(0.2),
            )
            for n, width in enumerate(widths)
        )
        self.verdicts = nn.ModuleList(normed(nn.Conv2d(channels, 1, 1)) for _ in widths)
        self.wanted = nn.ModuleList(nn.Linear(embed_dim, channels) for _ in widths)

    def forward(self, maps: Sequence[Tensor], vectors: Tensor) -> list[Tensor]:
        """Judge the eye's maps of pictures.

        Args:
            maps: What `PerceptualFeatures.layers` returned.
            vectors: What the pictures were to show, shape (n, embed_dim), unit norm.

        Returns:
            A verdict for each place of each map, shapes (n, h, w).
        """
        scores = []
        parts = zip(maps, self.heads, self.verdicts, self.wanted, strict=True)
        for seen, head, verdict, wanted in parts:
            # The maps' scale differs from layer to layer.
            hidden = head(seen / seen.detach().std().clamp(min=1e-6))
            fits = (hidden * wanted(vectors)[:, :, None, None]).sum(dim=1)
            scores.append(verdict(hidden)[:, 0] + fits)
        return scores


def contest_of_maps(
    critic: FeatureDiscriminator,
    made: Sequence[Tensor],
    real: Sequence[Tensor],
    vectors: Tensor,
    share: float,
) -> Tensor:
    """Compute one loss that improves the maker and the critic together (hinge losses).

    The critic's pull on what is made is scaled to the error's, as in VQGAN (Esser et al. 2021,
    https://arxiv.org/abs/2012.09841). It also learns that real pictures are wrong where they don't
    fit their vectors.

    Args:
        critic: The critic.
        made: The eye's maps of made pictures, with a gradient.
        real: Those of the photographs they should be.
        vectors: What they were to show, shape (n, d), unit norm.
        share: Weight of the critic's pull, relative to that of `looks_apart`.

    Returns:
        A scalar whose value is `looks_apart` and whose gradient is the maker's and the critic's.
    """
    seen = [layer.detach().requires_grad_() for layer in made]
    fixed = {name: value.detach() for name, value in critic.named_parameters()}
    score = _mean(torch.func.functional_call(critic, fixed, (seen, vectors)))
    distance = looks_apart(seen, real)
    pull = torch.autograd.grad(distance, seen)
    push = torch.autograd.grad(-score, seen)
    scale = share * _norm(pull) / _norm(push).clamp(min=1e-8)
    surrogate = torch.stack(
        [(m * (a + scale * b)).sum() for m, a, b in zip(made, pull, push, strict=True)]
    ).sum()
    fake = [layer.detach() for layer in made]
    verdict = (
        _mean([F.relu(1 - score) for score in critic(real, vectors)])
        + 0.5 * _mean([F.relu(1 + score) for score in critic(fake, vectors)])
        + 0.5 * _mean([F.relu(1 + score) for score in critic(real, vectors.roll(1, 0))])
    )
    return distance.detach() + (surrogate - surrogate.detach()) + (verdict - verdict.detach())


def _mean(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score.float().mean() for score in scores]).mean()


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([gradient.norm() for gradient in gradients]).norm()
