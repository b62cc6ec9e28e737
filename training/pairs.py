"""The pairs a translator learns from, and which of them are held out."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, Family, require_same_model
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.translator.linear import check_pairs

# Enough for a steady figure, few enough that ranking them takes a fraction of an epoch.
MOST_HELD_OUT = 5_000

# Ranked after every epoch; more would take as long as the epoch.
MOST_MONITORED = 2_000

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "validation": "validation",
    "test": "test",
}

# What rows have in common that come from one thing, the surest first.
_ITEM_COLUMNS = ("item", "file", "url", "caption")

# Rows read at once where all of a table's are looked at.
_ROWS = 8_192

# Fingerprinting reads so many rows of each side, evenly spaced, and no more.
_FINGERPRINT_ROWS = 4_096


class StoredVectors:
    """A side of the pairs that stays on disk: rows are read when they are asked for.

    Args:
        table: The table.
        column: The name of its column.
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
    """One side of several tables, one after another.

    Args:
        parts: The tables' sides, of one length of vectors.
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
    """Embeddings of the same things in two spaces, row by row."""

    source: Tensor | Any
    """To map from, shape (n, d_source); only their direction counts. A tensor, or what gives rows
    by their indices like one: `StoredVectors` or `JoinedVectors`."""

    target: Tensor | Any
    """To map to, shape (n, d_target), likewise."""

    items: Sequence[str] | None = None
    """What each row comes from, such as the clip a caption describes; rows of one item stay on one
    side of the split. None takes each row for an item of its own."""

    splits: Sequence[str | None] | None = None
    """`train`, `validation` or `test` for each row, where the data set says so."""

    source_space: EmbeddingSpace | None = None
    """Where the source vectors live."""

    target_space: EmbeddingSpace | None = None
    """Where the target vectors live."""

    source_column: str = "source"
    """What the source is called in its table."""

    target_column: str = "target"
    """What the target is called in its table."""

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
        """Give what each row comes from; rows that stand for themselves by these pairs' name."""
        if self.items is not None:
            return self.items
        name = self.fingerprint()
        return [f"{name} {row}" for row in range(len(self))]

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give all pairs, some at a time; from disk, if that is where they are."""
        for rows in torch.arange(len(self)).split(_ROWS):
            yield self.source[rows], self.target[rows]

    def fingerprint(self) -> str:
        """Give a name for these very pairs, from their number and a sample of the rows."""
        digest = hashlib.blake2b(digest_size=8)
        step = max(1, len(self) // _FINGERPRINT_ROWS)
        for side in (self.source, self.target):
            digest.update(f"{tuple(side.shape)} {side.dtype}".encode())
            sample = side[torch.arange(0, len(self), step)].detach().cpu().contiguous()
            digest.update(sample.view(torch.uint8).numpy().tobytes())
        for labels in (self.items, self.splits):
            digest.update(repr(None if labels is None else list(labels[::step])).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Which rows are for what, as indices in ascending order."""

    train: Tensor
    """The translator learns from these."""

    validation: Tensor
    """These choose when to stop."""

    test: Tensor
    """These are only measured on, at the end; may be empty."""


def read_pairs(table: str | Path | EmbeddingTable, config: TrainingConfig) -> Pairs:
    """Take the two columns to train on from a table, with what its rows come from.

    Args:
        table: The table or its folder.
        config: Names the columns, or leaves them to be found.

    Returns:
        The pairs; their vectors stay on disk, and are read when they are asked for.

    Raises:
        UserError: If a column isn't there, or more than one could be meant.
    """
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    source = _column(table, config.source or "clip", "source")
    target = _column(table, config.target or "clap", "target")
    if source == target:
        raise UserError(f"Source and target are both {source!r}: there is nothing to translate.")
    return Pairs(
        source=StoredVectors(table, source),
        target=StoredVectors(table, target),
        items=_items(table, config.item),
        splits=table.source("split") if "split" in table.sources else None,
        source_space=table.spaces[source],
        target_space=table.spaces[target],
        source_column=source,
        target_column=target,
    )


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Put the pairs of several tables one after another.

    Args:
        parts: At least one.

    Returns:
        All rows. Rows of one item may stand in several parts.

    Raises:
        UserError: If their spaces or sizes differ, or only some say what their rows come from.
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


def split_pairs(pairs: Pairs, *, validation: float, seed: int) -> Split:
    """Hold out whole items, so that no caption of a training clip is among the held-out ones.

    Where the pairs say which split they belong to, that is respected; without validation rows among
    them, or where all are of one split, items are drawn by a hash of their name: at least one, and
    until the share or 5,000 rows are reached. The same names and seed give the same split.

    Args:
        pairs: The pairs.
        validation: Share of the rows to hold out, between 0 and 1.
        seed: Of the draw.

    Returns:
        The three parts.

    Raises:
        UserError: If a split's name isn't known, an item is on two sides, or nothing is left to
            train on.
    """
    names = split_names(pairs.splits, len(pairs))
    if (names == names[0]).all():
        names = np.full(len(pairs), "train")
    rows = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    digests = _digests(pairs.items or range(len(pairs)), seed)
    if pairs.items is not None:
        _check_no_item_is_on_two_sides(pairs.items, digests, rows)
    if not len(rows["validation"]) and len(rows["train"]):
        rows["train"], rows["validation"] = _draw(rows["train"], digests, validation)
    if not len(rows["train"]) or not len(rows["validation"]):
        what = "items" if pairs.items is not None else "pairs"
        raise UserError(
            f"{len(pairs)} pairs can't be split into some to train on and some held out: at least "
            f"two {what} are needed outside the test split."
        )
    return Split(**{name: torch.from_numpy(part) for name, part in rows.items()})


def split_together(parts: Sequence[Pairs], *, validation: float, seed: int) -> list[Split]:
    """Hold out some of every table's pairs, and train on none of their items in any table.

    Args:
        parts: The tables' pairs.
        validation: Share of each table's rows to hold out, between 0 and 1.
        seed: Of the draw.

    Returns:
        What `split_pairs` gives for each; rows to train on are left out where another table holds
        out their item.

    Raises:
        UserError: As in `split_pairs`, or if nothing is left to train on.
    """
    splits = [split_pairs(part, validation=validation, seed=seed) for part in parts]
    held_out = [
        {
            part.items[row]
            for rows in (split.validation, split.test)
            for row in rows.tolist()
            if part.items is not None
        }
        for part, split in zip(parts, splits, strict=True)
    ]
    together = []
    for number, (part, split) in enumerate(zip(parts, splits, strict=True)):
        others = set().union(*held_out[:number], *held_out[number + 1 :])
        train = split.train
        if part.items is not None and others:
            train = train[torch.tensor([part.items[row] not in others for row in train.tolist()])]
        if not len(train):
            raise UserError(
                "Every item that one of the tables could train on is held out of another one. Name "
                "another item column, or give the tables one split."
            )
        together.append(replace(split, train=train))
    return together


def thin_out(rows: Tensor, most: int | None = None) -> Tensor:
    """Give at most so many of the rows, 5,000 if not said, evenly spaced."""
    most = most or MOST_HELD_OUT
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]


def _column(table: EmbeddingTable, name: str, side: str) -> str:
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


def _items(table: EmbeddingTable, name: str | None) -> list[str]:
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
    # A row that doesn't say what it comes from is an item of its own.
    return [
        row_id if value is None else str(value)
        for row_id, value in zip(ids, table.source(name), strict=True)
    ]


def split_names(splits: Sequence[str | None] | None, n: int) -> np.ndarray:
    """Give the split of each of n rows by its usual name; without any, all are `train`.

    Raises:
        UserError: If a split's name isn't known.
    """
    if splits is None:
        return np.full(n, "train")
    values = pa.array([str(name).lower() for name in splits]).dictionary_encode()
    unknown = sorted({str(name) for name in splits if str(name).lower() not in _SPLITS})
    if unknown:
        raise UserError(
            f"The table's split column says {', '.join(unknown[:4])}; expected train, validation "
            "or test."
        )
    known = np.array([_SPLITS[name] for name in values.dictionary.to_pylist()])
    return known[values.indices.to_numpy()]


def _digests(items: Sequence[str] | range, seed: int) -> np.ndarray:
    """Give each row a number that its item's name and the seed decide, shape (n,), uint64.

    Equal names have equal numbers. Two names of ten million share one with a probability of 3e-6;
    they are then held out together.
    """
    digests = np.empty(len(items), np.uint64)
    for row, item in enumerate(items):
        digest = hashlib.blake2b(f"{seed} {item}".encode(), digest_size=8).digest()
        digests[row] = int.from_bytes(digest)
    return digests


def _check_no_item_is_on_two_sides(
    items: Sequence[str], digests: np.ndarray, rows: dict[str, np.ndarray]
) -> None:
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = np.intersect1d(digests[rows[one]], digests[rows[other]])
        if len(shared):
            shared_rows = np.flatnonzero(np.isin(digests, shared)).tolist()
            example = min(items[row] for row in shared_rows)
            raise UserError(
                f"{len(shared)} items are in both the {one} and the {other} split (such as "
                f"{example!r}), so the held-out figures would be flattered. Mend the table's split "
                "column, or name another item column."
            )


def _draw(rows: np.ndarray, digests: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole items, in the order of their digests, until enough rows are held out."""
    items, counts = np.unique(digests[rows], return_counts=True)
    wanted = min(share * len(rows), MOST_HELD_OUT)
    drawn = held_rows = 0
    for count in counts[:-1]:
        if drawn and held_rows + count / 2 > wanted:
            break
        drawn += 1
        held_rows += count
    is_held_out = digests[rows] < items[drawn]
    return rows[~is_held_out], rows[is_held_out]
