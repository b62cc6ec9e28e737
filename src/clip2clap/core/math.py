"""Vector arithmetic of tensors."""

from torch import Tensor
from torch.nn import functional as F


def unit_norm(embeds: Tensor) -> Tensor:
    """Return embeddings scaled to L2 norm 1, in float32; zero vectors stay zero.

    Args:
        embeds: Embeddings, shape (..., d).

    Returns:
        The same directions, shape (..., d), float32, unit norm.

    Examples:
        >>> import torch
        >>> unit_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    return F.normalize(embeds.float(), dim=-1)
