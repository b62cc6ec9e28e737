"""Unconditional embedding of classifier-free guidance."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from clip2clap.core.errors import UserError, expect, is_integer


class LearnedNegativeEmbedding(ModelMixin, ConfigMixin):
    """Embedding that replaces a generator's condition in the unconditional branch.

    A generator is trained with this vector in place of a dropped condition, and guidance steers
    away from it (Ho and Salimans 2022, arXiv 2207.12598). For AudioLDM it is the text embedding of
    the empty prompt, so that guidance needs no text encoder.

    Args:
        dim: Size of the vector, that of the generator's CLAP space.
        origin: Origin of the vector: `"learned"`, or such as `"empty prompt"`.

    Examples:
        >>> import torch
        >>> LearnedNegativeEmbedding.from_vector(torch.ones(4))(2).shape
        torch.Size([2, 4])
    """

    @register_to_config
    def __init__(self, dim: int = 512, origin: str = "learned") -> None:
        super().__init__()
        expect(is_integer(dim) and dim > 0, "dim", "a positive whole number", dim)
        self.vector = nn.Parameter(torch.zeros(dim))

    @classmethod
    def from_vector(cls, vector: Tensor, *, origin: str = "learned") -> "LearnedNegativeEmbedding":
        """Create the embedding from a vector, shape (d,), in the generator's CLAP space."""
        if vector.ndim != 1 or not torch.isfinite(vector).all():
            raise UserError(
                f"Expected one vector of finite values, shape (d,), got {tuple(vector.shape)}."
            )
        embedding = cls(dim=vector.shape[0], origin=origin)
        with torch.no_grad():
            embedding.vector.copy_(vector)
        return embedding

    def forward(self, count: int = 1) -> Tensor:
        """Return the vector for each item of a batch, shape (count, d)."""
        return self.vector.expand(count, -1)
