"""Pairs of embeddings to train on: one row per item, in two spaces."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, Family, require_same_model
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.translator.linear import check_pairs

# Columns that identify an item, the most reliable first.
_ITEM_COLUMNS = ("item", "file", "url", "caption")

# Rows read at once when a whole table is checked.
_ROWS = 8_192

# Rows per side that the fingerprint covers, evenly spaced.
_FINGERPRINT_ROWS = 4_096


class StoredVectors:
    """One side of the pairs, on disk: rows are read when they are indexed.

    Args:
        table: Table of the vectors.
        column: Name of their column.
    """

    def __init__(self, table: EmbeddingTable, column: str):
        self._table, self._column = table, column
        self.shape = torch.Size([len(table), table.spaces[column].dim])
        self.dtype = self[torch.arange(0)].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read rows by their indices in ascending order, shape (m,)."""
        return self._table.read(self._column, rows)


class JoinedVectors:
    """One side of several tables, concatenated.

    Args:
        parts: Vectors of each table, of one dimension.
    """

    def __init__(self, parts: "Sequence[Vectors]"):
        self._parts = list(parts)
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.shape = torch.Size([int(self._ends[-1]), parts[0].shape[1]])
        dtypes = {part.dtype for part in parts}
        self.dtype = parts[0].dtype if len(dtypes) == 1 else torch.float32

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Read rows by their indices in ascending order, shape (m,)."""
        cuts = [0, *torch.searchsorted(rows, self._ends).tolist()]
        starts = [0, *self._ends.tolist()]
        return torch.cat(
            [
                part[rows[low:high] - start].to(self.dtype)
                for part, low, high, start in zip(self._parts, cuts, cuts[1:], starts, strict=False)
            ]
        )


Vectors = Tensor | StoredVectors | JoinedVectors


@dataclass(frozen=True)
class Pairs:
    """Embeddings of the same items in two spaces, row by row.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs
        >>> len(Pairs(torch.randn(100, 8), torch.randn(100, 6)))
        100
    """

    source: Tensor | Any
    """Source embeddings, shape (n, d_source), of any nonzero norm: a tensor, `StoredVectors` or
    `JoinedVectors`."""

    target: Tensor | Any
    """Target embeddings, shape (n, d_target), likewise."""

    items: Sequence[str] | None = None
    """Item of each row, such as the clip that a caption describes; rows of one item stay on one
    side of the split. None makes each row an item of its own."""

    splits: Sequence[str | None] | None = None
    """`train`, `validation` or `test` for each row, if the data set has a split."""

    source_space: EmbeddingSpace | None = None
    """Source space."""

    target_space: EmbeddingSpace | None = None
    """Target space."""

    source_column: str = "source"
    """Name of the source column."""

    target_column: str = "target"
    """Name of the target column."""

    def __post_init__(self) -> None:
        if isinstance(self.source, Tensor) and isinstance(self.target, Tensor):
            check_pairs(self.source, self.target)
        else:
            for source, target in self.in_order():
                check_pairs(source, target)
        for name in ("items", "splits"):
            labels = getattr(self, name)
            if labels is not None and len(labels) != len(self.source):
                raise UserError(
                    f"Expected one of {name} for each of {len(self.source)} rows, got "
                    f"{len(labels)}."
                )

    def __len__(self) -> int:
        return len(self.source)

    def items_or_rows(self) -> Sequence[str]:
        """Return the item of each row; without items, names unique to these pairs."""
        if self.items is not None:
            return self.items
        name = self.fingerprint()
        return [f"{name} {row}" for row in range(len(self))]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all pairs in chunks, read from disk if they are there."""
        for rows in torch.arange(len(self)).split(_ROWS):
            yield self.source[rows], self.target[rows]

    def fingerprint(self) -> str:
        """Return a hash of the pairs, from their number and a sample of the rows."""
        digest = hashlib.blake2b(digest_size=8)
        step = max(1, len(self) // _FINGERPRINT_ROWS)
        for side in (self.source, self.target):
            digest.update(f"{tuple(side.shape)} {side.dtype}".encode())
            sample = side[torch.arange(0, len(self), step)].detach().cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
        for labels in (self.items, self.splits):
            digest.update(repr(None if labels is None else list(labels[::step])).encode())
        return digest.hexdigest()


def read_pairs(table: str | Path | EmbeddingTable, config: TrainingConfig) -> Pairs:
    """Read the two columns to train on from a table, with the items of its rows.

    Args:
        table: Embedding table or its folder.
        config: Settings with the names of the columns.

    Returns:
        The pairs; their vectors stay on disk until they are indexed.

    Raises:
        UserError: If a column is missing, or more than one could be meant.

    Examples:
        >>> import torch
        >>> from clip2clap import EmbeddingSpace, TrainingConfig
        >>> from clip2clap.embeddings import TableWriter
        >>> from clip2clap.training import read_pairs
        >>> spaces = {
        ...     f"{family}_text": EmbeddingSpace(family, "demo", "text", 8, True, "0")
        ...     for family in ("clip", "clap")
        ... }
        >>> with TableWriter("pairs", spaces) as writer:
        ...     writer.append(["a", "b"], {}, {name: torch.eye(2, 8) for name in spaces})
        >>> read_pairs("pairs", TrainingConfig()).target_column
        'clap_text'
    """
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    source = find_column(table, config.source or "clip", "source")
    target = find_column(table, config.target or "clap", "target")
    if source == target:
        raise UserError(f"Source and target are both {source!r}: there is nothing to translate.")
    return Pairs(
        source=StoredVectors(table, source),
        target=StoredVectors(table, target),
        items=read_items(table, config.item),
        splits=table.source("split") if "split" in table.sources else None,
        source_space=table.spaces[source],
        target_space=table.spaces[target],
        source_column=source,
        target_column=target,
    )


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Concatenate the pairs of several tables.

    Args:
        parts: Pairs of each table, at least one. Rows of one item may be in several.

    Raises:
        UserError: If their spaces or dimensions differ.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs, join_pairs
        >>> part = Pairs(torch.randn(100, 8), torch.randn(100, 6))
        >>> len(join_pairs([part, part]))
        200
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        for side in ("source", "target"):
            ours, theirs = getattr(first, f"{side}_space"), getattr(part, f"{side}_space")
            if ours is not None and theirs is not None:
                require_same_model(ours, theirs, what=f"The tables' {side}s")
            dims = getattr(first, side).shape[1], getattr(part, side).shape[1]
            if dims[0] != dims[1]:
                raise UserError(
                    f"The tables' {side}s have {dims[0]} and {dims[1]} values: they are of "
                    "different models. Extract both with one."
                )
    return Pairs(
        source=JoinedVectors([part.source for part in parts]),
        target=JoinedVectors([part.target for part in parts]),
        items=[item for part in parts for item in part.items_or_rows()],
        splits=None
        if all(part.splits is None for part in parts)
        else [split for part in parts for split in part.splits or ["train"] * len(part)],
        source_space=first.source_space,
        target_space=first.target_space,
        source_column=first.source_column,
        target_column=first.target_column,
    )


def find_column(table: EmbeddingTable, name: str, side: str) -> str:
    """Return a column of embeddings by its name, or the only one of an encoder family.

    Raises:
        UserError: If it is missing, or more than one could be meant.
    """
    columns = ", ".join(table.spaces)
    if name in table.spaces:
        return name
    if name not in get_args(Family):
        raise UserError(
            f"{table.folder} has no embeddings {name!r} for the {side}, only {columns}."
        )
    fitting = [column for column, space in table.spaces.items() if space.family == name]
    if len(fitting) != 1:
        number = "several" if fitting else "no"
        raise UserError(
            f"{table.folder} has {number} {name.upper()} embeddings ({columns}): name the "
            f"{side} column."
        )
    return fitting[0]


def read_items(table: EmbeddingTable, name: str | None) -> list[str]:
    """Return the item of each row: its value in the column of a name, or of the first known one."""
    ids = table.ids
    if name is None:
        name = next((column for column in _ITEM_COLUMNS if column in table.sources), "id")
    if name == "id":
        return ids
    if name not in table.sources:
        raise UserError(
            f"{table.folder} has no column {name!r} to split by, only "
            f"{', '.join(['id', *table.sources])}."
        )
    # A row without an item is an item of its own.
    return [
        row_id if value is None else str(value)
        for row_id, value in zip(ids, table.source(name), strict=True)
    ]
