"""Weighted mixes of embeddings of one space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm

# A sum of unit vectors that is shorter is rounding error, of any direction.
_SHORTEST = 1e-4


def mix_embeds(embeds: Sequence[Tensor] | Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weighted sum of embeddings of one space, scaled to unit norm.

    Args:
        embeds: Embeddings to mix, each of shape (d,) or (n, d), unit norm.
        weights: One weight per embedding; negative weights push away. Only ratios matter.

    Returns:
        Mixed embeddings, shape (d,) or (n, d), float32, unit norm.

    Raises:
        UserError: If there is not one finite weight per embedding, or the sum is zero.

    Examples:
        >>> import torch
        >>> from clip2clap.inference import mix_embeds
        >>> mix_embeds(torch.eye(2), [3, 4])
        tensor([0.6000, 0.8000])
    """
    if not len(embeds) or len(embeds) != len(weights):
        raise UserError(
            f"Expected a weight for each of the {len(embeds)} embeddings, got {len(weights)}.",
            param="weights",
        )
    scales = torch.tensor([float(weight) for weight in weights], dtype=torch.float32)
    if not scales.isfinite().all() or not scales.abs().sum() > 0:
        raise UserError(
            f"Expected finite weights that are not all 0, got {list(weights)}.", param="weights"
        )
    scales = scales / scales.abs().sum()
    mixed = torch.stack(
        [scale * embed.float() for scale, embed in zip(scales, embeds, strict=True)]
    ).sum(dim=0)
    if not (mixed.norm(dim=-1) > _SHORTEST).all():
        raise UserError(
            "The embeddings cancel each other out: change the weights.", param="weights"
        )
    return unit_norm(mixed)
