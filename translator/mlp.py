"""The translator that the reference project trains: three linear layers between unit spheres."""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import LinearTranslator


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
    def start_as(self, linear: LinearTranslator) -> None:
        """Become a linear map, to be trained further: ReLU(x) - ReLU(-x) is x.

        Half the width is the rank that it can hold; of a matrix of higher rank the part with the
        largest singular values is kept. Hidden values that aren't needed keep their weights and
        have no influence yet.

        Args:
            linear: The map, of vectors of the same lengths; unless `centred`, translations are
                then the same.

        Raises:
            UserError: If the lengths differ, or `hidden` is 1.
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
