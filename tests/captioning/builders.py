"""Captioners with the tiny language model, and captions with embeddings."""

import torch
from torch import Tensor

from clip2clap.embeddings.space import EmbeddingSpace

SPACE = EmbeddingSpace("clap", "some/clap", "text", 8, True, "c1a9")
WIDTH = 16
THINGS = ["dog barks", "cat sleeps", "sea roars", "rain falls", "train passes"]


def learnable(n: int = 160, *, shuffled: bool = False) -> tuple[Tensor, list[str]]:
    """Embeddings near one of five directions, with the direction's caption, or another's."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(5, (n,), generator=generator)
    embeds = torch.eye(5, 8)[kinds] + 0.1 * torch.randn(n, 8, generator=generator)
    if shuffled:
        kinds = kinds[torch.randperm(n, generator=generator)]
    return embeds, [f"a {THINGS[kind]}" for kind in kinds.tolist()]
