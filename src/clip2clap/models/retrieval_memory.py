"""What a generator's conditions remind of: one step of attention over embeddings it knows well."""

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm


class EmbeddingMemory(ModelMixin, ConfigMixin):
    """Draws embeddings towards the known ones that they are like.

    A generator that was trained on few examples follows an embedding near those that it saw often,
    and makes little of one that lies apart. So a condition is mixed with what it calls up, as a
    modern Hopfield network retrieves what it has stored (Ramsauer et al. 2020, arXiv 2008.02217):
    `normalize((1 - share) * x + share * normalize(softmax(sharpness * x @ known.T) @ known))`.

    Args:
        dim: Size of the embeddings.
        count: How many are known.
        sharpness: Inverse temperature: the larger, the more the likest one alone is called up.
        share: How far embeddings are drawn, from 0 (not at all) to 1 (to what they call up).
    """

    @register_to_config
    def __init__(
        self, dim: int = 512, count: int = 1, sharpness: float = 20.0, share: float = 0.5
    ) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("count", count)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"Expected {name} to be a positive whole number, got {value!r}.")
        if not sharpness > 0:
            raise UserError(f"Expected sharpness to be above 0, got {sharpness!r}.")
        if not 0 <= share <= 1:
            raise UserError(f"Expected share to be from 0 to 1, got {share!r}.")
        self.known = nn.Parameter(torch.zeros(count, dim))

    @classmethod
    def from_embeds(cls, known: Tensor, *, sharpness: float, share: float) -> "EmbeddingMemory":
        """Hold embeddings that are known already.

        Args:
            known: Shape (count, d); they are scaled to unit norm.
            sharpness: As for the class.
            share: As for the class.

        Raises:
            UserError: If `known` is not rows of finite values other than zero, or as the class
                says.
        """
        if known.ndim != 2 or not torch.isfinite(known).all() or not known.any(dim=1).all():
            raise UserError(
                "Expected rows of finite values, not all zero, shape (count, d), got "
                f"{tuple(known.shape)}."
            )
        memory = cls(known.shape[1], known.shape[0], sharpness, share)
        with torch.no_grad():
            memory.known.copy_(unit_norm(known))
        return memory

    def forward(self, embeds: Tensor) -> Tensor:
        """Draw embeddings (n, d) towards what they call up; float32, unit norm, on their device."""
        share = self.config["share"]
        known, vectors = self.known.float(), unit_norm(embeds.to(self.known.device))
        likeness = (self.config["sharpness"] * vectors @ known.T).softmax(dim=-1)
        mixed = (1 - share) * vectors + share * unit_norm(likeness @ known)
        return unit_norm(mixed).to(embeds.device)
