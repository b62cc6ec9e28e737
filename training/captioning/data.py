"""Captions and embeddings of a table, and the means of its modalities."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.moments import Moments
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.captioning.config import CaptionerConfig
from clip2clap.training.pairs import Pairs, StoredVectors, find_column, read_items

# Rows read at once for the means.
_ROWS = 8_192


@dataclass(frozen=True)
class CaptionedVectors:
    """Embeddings with a caption each.

    Examples:
        >>> import torch
        >>> from clip2clap.training.captioning import CaptionedVectors
        >>> len(CaptionedVectors.of(torch.randn(2, 8), ["a dog", "rain"]).captions)
        2
    """

    pairs: Pairs
    """The embeddings as both sides of pairs, with items, splits and space."""

    captions: list[str]
    """Caption of each row."""

    means: dict[str, Tensor]
    """Mean unit vector of each modality of the space that the table has, the source's first."""

    @classmethod
    def of(cls, embeds: Tensor, captions: list[str], **facts: Any) -> "CaptionedVectors":
        """Create from embeddings in memory, shape (n, d); `facts` are those of `Pairs`."""
        modality = getattr(facts.get("source_space"), "modality", "text")
        mean = torch.nn.functional.normalize(embeds.float(), dim=-1).mean(dim=0)
        return cls(Pairs(embeds, embeds, **facts), list(captions), {modality: mean})

    def __post_init__(self) -> None:
        if len(self.captions) != len(self.pairs):
            raise UserError(
                f"Expected a caption for each of {len(self.pairs)} embeddings, got "
                f"{len(self.captions)}."
            )
        blank = [row for row, text in enumerate(self.captions) if not str(text or "").strip()]
        if blank:
            raise UserError(
                f"{len(blank)} of {len(self.captions)} captions are blank (the first is row "
                f"{blank[0]}). Leave these rows out of the table."
            )


def read_captions(table: str | Path | EmbeddingTable, config: CaptionerConfig) -> CaptionedVectors:
    """Read the columns to train a captioner on from a table.

    Raises:
        UserError: If a column is missing, or more than one could be meant.
    """
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    if config.source is None and len(table.spaces) > 1:
        raise UserError(
            f"{table.folder} has several embeddings: choose one of {', '.join(table.spaces)}.",
            param="source",
        )
    name = find_column(table, config.source or next(iter(table.spaces)), "source")
    if config.caption not in table.sources:
        raise UserError(
            f"{table.folder} has no captions {config.caption!r}, only "
            f"{', '.join(table.sources) or 'ids'}.",
            param="caption",
        )
    space = table.spaces[name]
    siblings = {
        column: own.modality
        for column, own in table.spaces.items()
        if own.same_model_as(space) and own.modality != space.modality
    }
    vectors = StoredVectors(table, name)
    pairs = Pairs(
        source=vectors,
        target=vectors,
        items=read_items(table, config.item),
        splits=table.source("split") if "split" in table.sources else None,
        source_space=space,
        source_column=name,
    )
    means = {space.modality: _mean(table, name)}
    means |= {modality: _mean(table, column) for column, modality in siblings.items()}
    return CaptionedVectors(pairs, table.source(config.caption), means)


def _mean(table: EmbeddingTable, column: str) -> Tensor:
    moments = Moments(table.spaces[column].dim)
    for (chunk,) in table.chunks(column, rows=_ROWS):
        moments.update(torch.nn.functional.normalize(chunk.float(), dim=-1))
    return torch.from_numpy(moments.mean).float()
