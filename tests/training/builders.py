"""Pairs and settings that tests of training share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.translator.base import Translator

CLIP = EmbeddingSpace("clip", "some/clip", "text", 16, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 12, True, "c1a9")
QUICK = TrainingConfig.reference(hidden_size=32, epochs=6, batch_size=16, learning_rate=5e-3)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def learnable(n: int = 300, *, shuffled: bool = False, items: Sequence[str] | None = None) -> Pairs:
    """Two views, bent and noisy, of the same hidden causes; shuffled, of each other's."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(n, 8, generator=generator)
    ways = torch.randn(2, 8, 16, generator=generator)
    noise = 0.2 * torch.randn(2, n, 16, generator=generator)
    source = unit(torch.tanh(causes @ ways[0] / 2) + noise[0])
    target = unit(torch.tanh(causes @ ways[1] / 2) + noise[1])[:, :12]
    if shuffled:
        target = target[torch.randperm(n, generator=generator)]
    return Pairs(unit(source), unit(target), items=items, source_space=CLIP, target_space=CLAP)


def weights(translator: Translator) -> dict[str, Tensor]:
    return dict(translator.state_dict())


def equal(one: Translator, other: Translator) -> bool:
    return all(torch.equal(w, weights(other)[name]) for name, w in weights(one).items())
