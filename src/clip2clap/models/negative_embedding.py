"""The vector that stands for "no particular sound" in classifier-free guidance."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from clip2clap.core.errors import UserError


class LearnedNegativeEmbedding(ModelMixin, ConfigMixin):
    """One CLAP-sized vector that a generator was trained to take for the absence of a condition.

    A generator drops its condition for some of its training examples and puts this vector in its
    place; guidance then steers away from it (Ho and Salimans 2022, arXiv 2207.12598). AudioLDM
    was trained with the text embedding of the empty prompt there, so for its checkpoints this
    holds that embedding, and no text encoder is needed to guide.

    Args:
        dim: Size of the vector, as the generator's CLAP has it.
        origin: Where the vector comes from: `"learned"` in training, or `"empty prompt"`.
    """

    @register_to_config
    def __init__(self, dim: int = 512, origin: str = "learned") -> None:
        super().__init__()
        if not isinstance(dim, int) or dim < 1:
            raise UserError(f"Expected dim to be a positive whole number, got {dim!r}.")
        self.vector = nn.Parameter(torch.zeros(dim))

    @classmethod
    def from_vector(cls, vector: Tensor, *, origin: str = "learned") -> "LearnedNegativeEmbedding":
        """Hold a vector that is known already.

        Args:
            vector: Shape (d,), in the generator's CLAP space, at the norm it is to be used with.
            origin: Where it comes from, kept in the config.

        Raises:
            UserError: If `vector` is not a single vector of finite values.
        """
        if vector.ndim != 1 or not torch.isfinite(vector).all():
            raise UserError(
                f"Expected one vector of finite values, shape (d,), got {tuple(vector.shape)}."
            )
        embedding = cls(dim=vector.shape[0], origin=origin)
        with torch.no_grad():
            embedding.vector.copy_(vector)
        return embedding

    def forward(self, count: int = 1) -> Tensor:
        """Give the vector once for each item of a batch, shape (count, d)."""
        return self.vector.expand(count, -1)
