"""The pairs a translator learns from, and which of them are held out."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from clip2clap.embeddings import EmbeddingSpace, UserError
from clip2clap.embeddings.space import Family
from clip2clap.embeddings.table import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.translator.linear import check_pairs

# Enough for a steady figure, few enough that ranking them takes a fraction of an epoch.
MOST_HELD_OUT = 5_000

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

# Fingerprinting reads so many rows of each side, evenly spaced, and no more.
_FINGERPRINT_ROWS = 4_096


@dataclass(frozen=True)
class Pairs:
    """Embeddings of the same things in two spaces, row by row."""

    source: Tensor
    """To map from, shape (n, d_source); only their direction counts."""

    target: Tensor
    """To map to, shape (n, d_target); only their direction counts."""

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
        check_pairs(self.source, self.target)
        for name in ("items", "splits"):
            labels = getattr(self, name)
            if labels is not None and len(labels) != len(self.source):
                raise UserError(
                    f"Expected one of {name} for each of {len(self.source)} rows, got "
                    f"{len(labels)}."
                )

    def __len__(self) -> int:
        return len(self.source)

    def fingerprint(self) -> str:
        """Give a name for these very pairs, from their number and a sample of the rows."""
        digest = hashlib.blake2b(digest_size=8)
        step = max(1, len(self) // _FINGERPRINT_ROWS)
        for side in (self.source, self.target):
            digest.update(f"{tuple(side.shape)} {side.dtype}".encode())
            sample = side[::step].detach().cpu().contiguous()
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
        The pairs; the tensors share the table's memory where it lies in one file.

    Raises:
        UserError: If a column isn't there, or more than one could be meant.
    """
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    source = _column(table, config.source, "clip", "source")
    target = _column(table, config.target, "clap", "target")
    if source == target:
        raise UserError(f"Source and target are both {source!r}: there is nothing to translate.")
    return Pairs(
        source=table.tensor(source),
        target=table.tensor(target),
        items=_items(table, config.item),
        splits=table.source("split") if "split" in table.sources else None,
        source_space=table.spaces[source],
        target_space=table.spaces[target],
        source_column=source,
        target_column=target,
    )


def split_pairs(pairs: Pairs, *, validation: float, seed: int) -> Split:
    """Hold out whole items, so that no caption of a training clip is among the held-out ones.

    Where the pairs say which split they belong to, that is respected; without validation rows among
    them, or without any such word, items are drawn by a hash of their name: at least one, and until
    the share or 5,000 rows are reached. The same names and seed give the same split.

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
    items = pairs.items
    names = _split_names(pairs.splits, len(pairs))
    rows: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, name in enumerate(names):
        rows[name].append(row)
    if items is not None:
        _check_no_item_is_on_two_sides(items, rows)
    if not rows["validation"] and rows["train"]:
        rows["train"], rows["validation"] = _draw(rows["train"], items, validation, seed)
    if not rows["train"] or not rows["validation"]:
        what = "items" if items is not None else "pairs"
        raise UserError(
            f"{len(pairs)} pairs can't be split into some to train on and some held out: at least "
            f"two {what} are needed outside the test split."
        )
    return Split(**{name: torch.tensor(part, dtype=torch.long) for name, part in rows.items()})


def thin_out(rows: Tensor) -> Tensor:
    """Give at most 5,000 of the rows, evenly spaced."""
    if len(rows) <= MOST_HELD_OUT:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, MOST_HELD_OUT).long()]


def _column(table: EmbeddingTable, name: str | None, family: Family, side: str) -> str:
    columns = ", ".join(table.spaces)
    if name is not None:
        if name not in table.spaces:
            raise UserError(
                f"{table.folder} has no embeddings {name!r} for the {side}, only {columns}."
            )
        return name
    fitting = [column for column, space in table.spaces.items() if space.family == family]
    if len(fitting) != 1:
        number = "several" if fitting else "no"
        raise UserError(
            f"{table.folder} has {number} {family.upper()} embeddings ({columns}): name the "
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


def _split_names(splits: Sequence[str | None] | None, n: int) -> list[str]:
    if splits is None:
        return ["train"] * n
    unknown = sorted({str(name) for name in splits if str(name).lower() not in _SPLITS})
    if unknown:
        raise UserError(
            f"The table's split column says {', '.join(unknown[:4])}; expected train, validation "
            "or test."
        )
    return [_SPLITS[str(name).lower()] for name in splits]


def _check_no_item_is_on_two_sides(items: Sequence[str], rows: dict[str, list[int]]) -> None:
    sides = {name: {items[row] for row in part} for name, part in rows.items()}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = sides[one] & sides[other]
        if shared:
            raise UserError(
                f"{len(shared)} items are in both the {one} and the {other} split (such as "
                f"{min(shared)!r}), so the held-out figures would be flattered. Mend the table's "
                "split column, or name another item column."
            )


def _draw(
    rows: list[int], items: Sequence[str] | None, share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Draw whole items until enough rows are held out."""
    label: Callable[[int], str] = str if items is None else lambda row: items[row]
    by_item: dict[str, list[int]] = {}
    for row in rows:
        by_item.setdefault(label(row), []).append(row)
    order = sorted(by_item, key=lambda item: _hash(item, seed))
    wanted = min(share * len(rows), MOST_HELD_OUT)
    held_out: list[int] = []
    for item in order[:-1]:
        if held_out and len(held_out) + len(by_item[item]) / 2 > wanted:
            break
        held_out += by_item[item]
    kept_out = set(held_out)
    return [row for row in rows if row not in kept_out], sorted(held_out)


def _hash(item: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed} {item}".encode(), digest_size=8).digest()
