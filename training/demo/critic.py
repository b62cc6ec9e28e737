"""A critic for autoencoders: it sees where a decoded picture lacks the grain of a real one."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PatchCritic(nn.Module):
    """Tells real pictures from decoded ones, patch by patch.

    A patch discriminator (Isola et al. 2017, https://arxiv.org/abs/1611.07004) that also sees how
    far right it looks: for a spectrogram that is the mel bin, and low bins differ from high ones.

    Args:
        in_channels: Channels of the pictures.
        channels: Width of the first layer.
    """

    def __init__(self, in_channels: int, channels: int = 32):
        super().__init__()
        widths = (in_channels + 1, channels, 2 * channels, 4 * channels)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(i, o, 4, stride=2, padding=1))
            for i, o in pairwise(widths)
        )
        self.out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Map pictures (n, channels, height, width), of unit scale, to one score a patch."""
        places = torch.linspace(-1, 1, pictures.shape[-1]).expand_as(pictures[:, :1])
        hidden = torch.cat([pictures, places], dim=1)
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), 0.2)
        return self.out(hidden)


def contest(
    critic: PatchCritic,
    made: Tensor,
    real: Tensor,
    error: Callable[[Tensor, Tensor], Tensor],
    share: float,
) -> Tensor:
    """Compute one loss that improves the maker and the critic together (hinge losses).

    The critic's pull on the made pictures is scaled to `share` of the error's, as in VQGAN
    (Esser et al. 2021, https://arxiv.org/abs/2012.09841).

    Args:
        critic: The critic.
        made: Decoded pictures, shape (n, channels, height, width), with a gradient.
        real: The pictures they should be.
        error: The distance of made and real pictures.
        share: Weight of the critic's pull.

    Returns:
        A scalar whose value is the error and whose gradient is the maker's and the critic's.
    """
    seen = made.detach().requires_grad_()
    fixed = {name: value.detach() for name, value in critic.named_parameters()}
    score = torch.func.functional_call(critic, fixed, seen).float().mean()
    verdict = F.relu(1 - critic(real)).mean() + F.relu(1 + critic(seen.detach())).mean()
    distance = error(seen, real)
    (pull,) = torch.autograd.grad(distance, seen)
    (push,) = torch.autograd.grad(-score, seen)
    push = push * (pull.norm() / push.norm().clamp(min=1e-8))
    surrogate = (made * (pull + share * push)).sum()
    return distance.detach() + (surrogate - surrogate.detach()) + (verdict - verdict.detach())
