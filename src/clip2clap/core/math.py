"""Vector arithmetic that every package shares."""

from torch import Tensor
from torch.nn import functional as F


def unit_norm(embeds: Tensor) -> Tensor:
    """Return embeddings scaled to L2 norm 1, in float32; zero vectors stay zero.

    Args:
        embeds: Embeddings, shape (..., d).

    Returns:
        The same directions, shape (..., d), float32, unit norm.
    """
    return F.normalize(embeds.float(), dim=-1)
