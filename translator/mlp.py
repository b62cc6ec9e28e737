"""The translator that the reference project trains: three linear layers between unit spheres."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from clip2clap.embeddings import EmbeddingSpace
from clip2clap.translator.base import Translator


class MLPTranslator(Translator):
    """A perceptron: L2-normalise, Linear, ReLU, Linear, ReLU, Linear, L2-normalise.

    With 512 values on both sides and `hidden` 256 or 512 it is the reference's network.

    Args:
        source_dim: Length of the vectors that go in.
        target_dim: Length of the vectors that come out.
        hidden: Width of both hidden layers.
        centred: Whether the means of both sides are kept, taken off and put back; see `centre`.
        source_space: Where the vectors that go in live.
        target_space: Where the vectors that come out live.
        recipe: How it was trained.
        metrics: How well it does on pairs it has not seen.
        data: Fingerprint of the pairs it was made from.
        versions: Of the libraries that made it; the present ones if None.

    Raises:
        UserError: If a size is no positive whole number, or a space has another size.
    """

    @register_to_config
    def __init__(
        self,
        source_dim: int = 512,
        target_dim: int = 512,
        hidden: int = 512,
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
        self.layers = nn.Sequential(
            nn.Linear(source_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, target_dim),
        )

    def translate(self, embeds: Tensor) -> Tensor:
        """Map unit vectors, shape (n, source_dim), to vectors of shape (n, target_dim)."""
        return self.layers(embeds)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights anew, as `nn.Linear` does by default, from a generator of one's own.

        Args:
            generator: On the CPU; equal seeds give equal weights.
        """
        draw_weights(self, generator)


@torch.no_grad()
def draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear layers anew, as `nn.Linear` does by default.

    Args:
        network: Its linear layers are changed, in order; nothing else is.
        generator: On the CPU; equal seeds give equal weights.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for weight in (layer.weight, layer.bias):
                drawn = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
                weight.copy_(drawn)
