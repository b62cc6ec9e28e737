"""Train, validation and test split of pairs, by whole items."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.pairs import Pairs

# Enough for a stable metric, few enough to rank in a fraction of an epoch.
MAX_HELD_OUT = 5_000

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "dev", "validation"), "validation"),
    "test": "test",
}


@dataclass(frozen=True)
class Split:
    """Rows of the three parts of a split, as indices in ascending order.

    The validation rows select the best epoch; the test rows, which may be none, are only measured
    on, at the end.
    """

    train: Tensor
    validation: Tensor
    test: Tensor

    @property
    def measured_on(self) -> Literal["validation", "test"]:
        """Part that a finished translator is measured on: test, or validation without test rows."""
        return "test" if len(self.test) else "validation"

    @property
    def measured_rows(self) -> Tensor:
        """Rows of `measured_on`, at most as many as are measured."""
        return thin_out(getattr(self, self.measured_on))


@dataclass(frozen=True)
class TrainingData:
    """Pairs with their split, the fingerprint of both, and the name of the tables."""

    pairs: Pairs
    split: Split
    fingerprint: str = ""
    name: str = ""


def split_pairs(
    pairs: Pairs, *, validation: float, seed: int, max_held_out: int = MAX_HELD_OUT
) -> Split:
    """Split pairs by whole items, so that no caption of a training clip is among the held-out ones.

    A split that the pairs name is kept. Without validation rows, or if all rows are of one split,
    items are drawn by a hash of their name: at least one, until the share or `max_held_out` rows
    are reached. The same names and seed give the same split.

    Args:
        pairs: Pairs to split.
        validation: Share of the rows to hold out, between 0 and 1.
        seed: Seed of the draw.
        max_held_out: Largest number of rows to draw.

    Returns:
        The three parts.

    Raises:
        UserError: If a split's name is unknown, an item is in two parts, or nothing is left to
            train on.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs, split_pairs
        >>> pairs = Pairs(torch.randn(100, 8), torch.randn(100, 6))
        >>> split = split_pairs(pairs, validation=0.2, seed=0)
        >>> len(split.train), len(split.validation), len(split.test)
        (80, 20, 0)
    """
    names = split_names(pairs.splits, len(pairs))
    if (names == names[0]).all():
        names = np.full(len(pairs), "train")
    rows = {name: np.flatnonzero(names == name) for name in ("train", "validation", "test")}
    digests = _digests(pairs.items or range(len(pairs)), seed)
    if pairs.items is not None:
        _check_items(pairs.items, digests, rows)
    if not len(rows["validation"]) and len(rows["train"]):
        rows["train"], rows["validation"] = _draw(
            rows["train"], digests, min(validation * len(rows["train"]), max_held_out)
        )
    if not len(rows["train"]) or not len(rows["validation"]):
        what = "items" if pairs.items is not None else "pairs"
        raise UserError(
            f"{len(pairs)} pairs can't be split into some to train on and some held out: at least "
            f"two {what} are needed outside the test split."
        )
    return Split(**{name: torch.from_numpy(part) for name, part in rows.items()})


def split_together(parts: Sequence[Pairs], *, validation: float, seed: int) -> list[Split]:
    """Split several tables as `split_pairs` does, so that no item is held out and trained on.

    A table's training rows of items that another table holds out are left out.

    Raises:
        UserError: As in `split_pairs`, or if nothing is left to train on.
    """
    splits = [split_pairs(part, validation=validation, seed=seed) for part in parts]
    held_out = [
        {part.items[row] for row in torch.cat([split.validation, split.test]).tolist()}
        if part.items is not None
        else set()
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


def thin_out(rows: Tensor, most: int = MAX_HELD_OUT) -> Tensor:
    """Return at most so many of the rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]


def split_names(splits: Sequence[str | None] | None, n: int) -> np.ndarray:
    """Return the split of each of n rows by its usual name; without names, all are `train`.

    Raises:
        UserError: If a split's name is unknown.
    """
    if splits is None:
        return np.full(n, "train")
    values = pa.array([str(name).lower() for name in splits]).dictionary_encode()
    unknown = sorted(set(values.dictionary.to_pylist()) - _SPLITS.keys())
    if unknown:
        raise UserError(
            f"The table's split column says {', '.join(unknown[:4])}; expected train, validation "
            "or test."
        )
    known = np.array([_SPLITS[name] for name in values.dictionary.to_pylist()])
    return known[values.indices.to_numpy()]


def _digests(items: Sequence[str] | range, seed: int) -> np.ndarray:
    """Hash the item's name of each row with the seed, shape (n,), uint64.

    Two names of ten million collide with a probability of 3e-6; they are then held out together.
    """
    hashed = (hashlib.blake2b(f"{seed} {item}".encode(), digest_size=8) for item in items)
    digests = (int.from_bytes(digest.digest()) for digest in hashed)
    return np.fromiter(digests, np.uint64, len(items))


def _check_items(items: Sequence[str], digests: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = np.intersect1d(digests[rows[one]], digests[rows[other]])
        if len(shared):
            shared_rows = np.flatnonzero(np.isin(digests, shared)).tolist()
            example = min(items[row] for row in shared_rows)
            raise UserError(
                f"{len(shared)} items are in both the {one} and the {other} split (such as "
                f"{example!r}), so the held-out metrics would be too good. Correct the table's "
                "split column, or name another item column."
            )


def _draw(rows: np.ndarray, digests: np.ndarray, wanted: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw whole items, in the order of their digests, until enough rows are held out."""
    items, counts = np.unique(digests[rows], return_counts=True)
    drawn = held_rows = 0
    for count in counts[:-1]:
        if drawn and held_rows + count / 2 > wanted:
            break
        drawn += 1
        held_rows += count
    is_held_out = digests[rows] < items[drawn]
    return rows[~is_held_out], rows[is_held_out]
