"""A wider and deeper translator: residual blocks with LayerNorm and dropout."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.base import Translator
from clip2clap.translator.mlp import draw_weights


class ResidualTranslator(Translator):
    """Residual blocks between two linear layers; 2.1 million parameters by default.

    A block adds Linear(GELU(Linear(LayerNorm(x)))), with dropout, to what it is given, so that
    depth doesn't stand in the way of training (He et al. 2016, arXiv 1603.05027). That many
    parameters is what published regression mappers have.

    Args:
        source_dim: Length of the vectors that go in.
        target_dim: Length of the vectors that come out.
        hidden: Width of the blocks.
        blocks: Number of blocks.
        dropout: Share of a block's hidden values that is set to 0 in training.
        centred: Whether the means of both sides are kept, taken off and put back; see `centre`.
        source_space: Where the vectors that go in live.
        target_space: Where the vectors that come out live.
        recipe: How it was trained.
        metrics: How well it does on pairs it has not seen.
        data: Fingerprint of the pairs it was made from.
        versions: Of the libraries that made it; the present ones if None.

    Raises:
        UserError: If a size is no positive whole number, `dropout` is no share, or a space has
            another size.
    """

    @register_to_config
    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden: int = 512,
        blocks: int = 3,
        dropout: float = 0.1,
        centred: bool = False,
        source_space: EmbeddingSpace | dict[str, Any] | None = None,
        target_space: EmbeddingSpace | dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        data: str | None = None,
        versions: dict[str, str] | None = None,
    ):
        super().__init__()
        self._finish_config()
        if centred:
            self._keep_means()
        self.enter = nn.Linear(source_dim, hidden)
        self.body = nn.Sequential(*(ResidualBlock(hidden, dropout) for _ in range(blocks)))
        self.leave = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, target_dim))

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        # A unit vector's values are small where it has many; the layers expect them around 1.
        return self.leave(self.body(self.enter(embeds * self.source_dim**0.5)))

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, as `nn.Linear` does by default, from a generator of one's own.

        Args:
            generator: On the CPU; equal seeds give equal weights.
        """
        draw_weights(self, generator)


class ResidualBlock(nn.Module):
    """Adds to its input what two layers make of it.

    Args:
        width: Length of the vectors.
        dropout: Share of the hidden values that is set to 0 in training.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Give vectors of the shape that comes in, (n, width)."""
        return hidden + self.layers(hidden)
