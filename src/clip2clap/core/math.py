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


def retrieve(embeds: Tensor, known: Tensor, *, beta: float) -> Tensor:
    """Average stored embeddings by their similarity to each embedding.

    Args:
        embeds: Embeddings, shape (n, d).
        known: Stored embeddings, shape (count, d), unit norm.
        beta: Inverse temperature of the softmax.

    Returns:
        `softmax(beta * x @ known.T) @ known`, shape (n, d), float32. The squared norm is the mean
        similarity of two stored embeddings drawn by the softmax: 1 if they are the same.

    Examples:
        >>> import torch
        >>> embeds = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
        >>> retrieve(embeds, torch.eye(2), beta=20.0).round(decimals=1)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    return (beta * unit_norm(embeds) @ known.float().T).softmax(dim=-1) @ known.float()


def recall(embeds: Tensor, known: Tensor, *, beta: float, mix: float) -> Tensor:
    """Pull embeddings towards the stored ones that they are most similar to.

    The update of a modern Hopfield network (Ramsauer et al. 2020, https://arxiv.org/abs/2008.02217):
    `normalize((1 - mix) * x + mix * normalize(softmax(beta * x @ known.T) @ known))`.

    Args:
        embeds: Embeddings, shape (n, d).
        known: Stored embeddings, shape (count, d), unit norm.
        beta: Inverse temperature of the softmax.
        mix: Weight of the retrieved embedding, from 0 (input unchanged) to 1 (input replaced).

    Returns:
        Embeddings, shape (n, d), float32, unit norm.

    Examples:
        >>> import torch
        >>> recall(torch.tensor([[0.9, 0.1]]), torch.eye(2), beta=20.0, mix=1.0).round()
        tensor([[1., 0.]])
    """
    retrieved = unit_norm(retrieve(embeds, known, beta=beta))
    return unit_norm((1 - mix) * unit_norm(embeds) + mix * retrieved)
