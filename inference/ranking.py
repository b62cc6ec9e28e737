"""Which of several sounds made for one photograph is kept."""

import torch
from torch import Tensor

from clip2clap.core.errors import UserError


def rank_candidates(candidate_embeds: Tensor, target_embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Find the candidate whose sound lies nearest to what was asked for.

    Args:
        candidate_embeds: CLAP audio embeddings of each item's candidates, shape (n, k, d).
        target_embeds: The vectors asked for, in the same CLAP's space, shape (n, d).

    Returns:
        The best candidate's index for each item, shape (n,), and the cosine similarities,
        shape (n, k). The first of equals wins.

    Raises:
        UserError: If the shapes don't belong together.
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
