"""Ranking of an item's candidates by their similarity to its embedding."""

import torch
from torch import Tensor

from clip2clap.core.errors import UserError


def rank_candidates(candidate_embeds: Tensor, target_embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each candidate's similarity to its item's embedding, and the best candidates.

    Args:
        candidate_embeds: Embeddings of each item's candidates, shape (n, k, d).
        target_embeds: Embeddings of the items, in the same space, shape (n, d).

    Returns:
        Index of each item's best candidate, shape (n,), of equals the first; and the cosine
        similarities, shape (n, k).

    Raises:
        UserError: If the shapes do not match.
    """
    if candidate_embeds.ndim != 3 or target_embeds.shape != (
        candidate_embeds.shape[0],
        candidate_embeds.shape[2],
    ):
        raise UserError(
            "Expected candidates of shape (n, k, d) and targets of shape (n, d), got "
            f"{tuple(candidate_embeds.shape)} and {tuple(target_embeds.shape)}."
        )
    similarities = torch.nn.functional.cosine_similarity(
        candidate_embeds.float(), target_embeds.float().unsqueeze(1), dim=-1
    )
    return similarities.argmax(dim=1), similarities
