"""Multilayer perceptron translator, as the reference project trains it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.errors import UserError
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.saving import Provenance


class MLPTranslator(Translator):
    """Multilayer perceptron between unit spheres: Linear, ReLU, Linear, ReLU, Linear.

    In training, dropout may follow each ReLU.

    Input and output are L2-normalized. With 512 values on both sides and a `hidden_size` of 256 or
    512 it is the reference's network.

    Args:
        source_dim: Length of the input vectors.
        target_dim: Length of the output vectors.
        hidden_size: Width of both hidden layers.
        centered: Keep a mean per side, which is subtracted and added back; see `center`.
        dropout: Dropout probability after both hidden layers.
        provenance: Facts about the translator.

    Raises:
        UserError: If a size is not a positive whole number, `dropout` is out of range, or a space
            has another size.

    Examples:
        >>> import torch
        >>> from clip2clap import MLPTranslator
        >>> MLPTranslator(512, 256, hidden_size=64)(torch.randn(3, 512)).shape
        torch.Size([3, 256])
    """

    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden_size: int = 512,
        centered: bool = False,
        dropout: float = 0.0,
        provenance: Provenance | None = None,
    ):
        super().__init__(locals())
        self.dropout = dropout
        """Dropout probability after both hidden layers."""
        self.layers = nn.Sequential(
            nn.Linear(source_dim, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, target_dim),
        )

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        for layer in self.layers:
            embeds = layer(embeds)
            if self.dropout and isinstance(layer, nn.ReLU):
                embeds = F.dropout(embeds, self.dropout, self.training)
        return embeds

    @torch.no_grad()
    def start_as(self, linear: LinearTranslator) -> None:
        """Become a linear map, to be trained further: ReLU(x) - ReLU(-x) is x.

        The map has at most half the width as its rank: of a matrix of higher rank the part with
        the largest singular values is kept. Hidden units that are not needed keep their weights
        and have no influence yet. Unless `centered`, the outputs are then those of the map.

        Raises:
            UserError: If the lengths differ, or `hidden_size` is 1.
        """
        first, second, last = (layer for layer in self.layers if isinstance(layer, nn.Linear))
        weight = linear.linear.weight
        if weight.shape != (last.out_features, first.in_features):
            raise UserError(
                f"Expected a linear map of {first.in_features} values to {last.out_features}, got "
                f"one of {weight.shape[1]} to {weight.shape[0]}."
            )
        if first.out_features < 2:
            raise UserError("A perceptron of width 1 can't start as a linear map: give 2 or more.")
        left, sizes, right = torch.linalg.svd(weight.double(), full_matrices=False)
        rank = min(len(sizes), first.out_features // 2)
        roots = sizes[:rank].sqrt()
        into, out = (roots[:, None] * right[:rank]).float(), (left[:, :rank] * roots).float()
        used = 2 * rank
        first.weight[:used] = torch.cat([into, -into])
        first.bias[:used] = 0
        second.weight[:used] = torch.eye(used, first.out_features)
        second.bias[:used] = 0
        last.weight[:] = 0
        last.weight[:, :used] = torch.cat([out, -out], dim=1)
        last.bias[:] = 0 if linear.linear.bias is None else linear.linear.bias
