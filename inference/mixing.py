"""Several vectors in one: sounds, words and pictures mixed in CLIP space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm

# Below this a sum of unit vectors is rounding, and points anywhere.
_SHORTEST = 1e-4


def mix_embeds(embeds: Sequence[Tensor] | Tensor, weights: Sequence[float]) -> Tensor:
    """Add embeddings of one space up, each by its weight, and scale the sum to unit norm.

    Args:
        embeds: The ingredients, each of shape (d,) or (n, d), of one space, unit norm.
        weights: One for each ingredient; negative ones push away. Only their ratios count.

    Returns:
        The mix, of an ingredient's shape, float32, unit norm.

    Raises:
        UserError: If there is not one finite weight for each, or the ingredients cancel out.
    """
    if not len(embeds) or len(embeds) != len(weights):
        raise UserError(
            f"Expected a weight for each of the {len(embeds)} vectors, got {len(weights)}."
        )
    scales = torch.tensor([float(weight) for weight in weights])
    if not scales.isfinite().all() or not scales.abs().sum() > 0:
        raise UserError(f"Expected finite weights that are not all 0, got {list(weights)}.")
    scales = scales / scales.abs().sum()
    mixed = torch.stack(
        [scale * embed.float() for scale, embed in zip(scales, embeds, strict=True)]
    ).sum(dim=0)
    if not (mixed.norm(dim=-1) > _SHORTEST).all():
        raise UserError("The vectors cancel each other out: change the weights.")
    return unit_norm(mixed)
