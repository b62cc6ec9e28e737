"""Retrieval memory: one step of attention that pulls a condition towards training embeddings."""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from clip2clap.core.errors import UserError, expect, is_integer
from clip2clap.core.math import recall, unit_norm

# Config keys of earlier versions.
_RENAMED = {"sharpness": "beta", "share": "mix"}


class RetrievalMemory(ModelMixin, ConfigMixin):
    """Retrieval memory: pull a condition towards the training embeddings it is most similar to.

    A generator trained on little data follows embeddings close to its training data and ignores
    outliers. The update is `core.math.recall`, that of a modern Hopfield network (Ramsauer
    et al. 2020, arXiv 2008.02217).

    Args:
        dim: Embedding dimension.
        count: Number of stored embeddings.
        beta: Inverse temperature of the softmax.
        mix: Weight of the retrieved embedding, from 0 (input unchanged) to 1 (input replaced).

    Raises:
        UserError: If an argument is out of range.

    Examples:
        >>> import torch
        >>> from clip2clap.models.retrieval_memory import RetrievalMemory
        >>> memory = RetrievalMemory.from_embeds(torch.eye(3), beta=20.0, mix=1.0)
        >>> memory(torch.tensor([[0.9, 0.1, 0.0]])).round()
        tensor([[1., 0., 0.]], ...)
    """

    @register_to_config
    def __init__(
        self, dim: int = 512, count: int = 1, beta: float = 20.0, mix: float = 0.5
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("count", count)):
            expect(is_integer(value) and value > 0, name, "a positive integer", value)
        expect(beta > 0, "beta", "above 0", beta)
        expect(0 <= mix <= 1, "mix", "from 0 to 1", mix)
        self.known = nn.Parameter(torch.zeros(count, dim))

    @classmethod
    def from_embeds(cls, known: Tensor, *, beta: float, mix: float) -> "RetrievalMemory":
        """Create a memory of embeddings, shape (count, d), which are scaled to unit norm."""
        if known.ndim != 2 or not torch.isfinite(known).all() or not known.any(dim=1).all():
            raise UserError(
                "Expected rows of finite values, not all zero, shape (count, d), got "
                f"{tuple(known.shape)}."
            )
        memory = cls(known.shape[1], known.shape[0], beta, mix)
        with torch.no_grad():
            memory.known.copy_(unit_norm(known))
        return memory

    @classmethod
    def from_config(cls, config: Any, *args: Any, **kwargs: Any) -> Any:
        """Create a memory from its config; keys of earlier versions are mapped."""
        mapped: Any = {_RENAMED.get(name, name): value for name, value in dict(config).items()}
        return super().from_config(mapped, *args, **kwargs)

    def forward(self, embeds: Tensor) -> Tensor:
        """Pull embeddings (n, d) towards the stored ones; float32, unit norm, same device."""
        beta, mix = self.config["beta"], self.config["mix"]
        pulled = recall(embeds.to(self.known.device), self.known, beta=beta, mix=mix)
        return pulled.to(embeds.device)


EmbeddingMemory = RetrievalMemory
"""Name of the class in pipelines saved by earlier versions."""
