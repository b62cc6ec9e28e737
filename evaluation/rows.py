"""Rows of a table to evaluate translators on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, Vectors, read_pairs
from clip2clap.training.run_folder import REPORT_FILE
from clip2clap.training.splits import split_names, split_pairs

SplitName = Literal["auto", "test", "validation", "train", "held-out", "all"]

UNKNOWN = "all, perhaps seen in training"
"""Name of rows that translators may have been trained on."""

MOST_ROWS = 50_000
"""Default limit of rows: all pairs are compared, which is about half a minute."""

_BATCH_SIZE = 65_536


@dataclass(frozen=True)
class EvaluatedRows:
    """Pairs to evaluate on, with their metadata."""

    pairs: Pairs
    """The pairs."""

    ids: list[str]
    """Ids in the table."""

    split: str
    """Description of the rows, such as `held-out`."""

    labels: list[str] | None
    """Class of each row, if there is a column of labels."""

    texts: list[str]
    """Caption, file or id of each row, for display."""

    mean: Tensor | None
    """Mean target of the rows left out, shape (d,); None if there are none."""

    def fingerprint(self) -> str:
        """Return a hash of the rows: ranks can be compared where it is the same."""
        digest = hashlib.blake2b("\n".join(self.ids).encode(), digest_size=8)
        for _, part in self.pairs.in_order():
            digest.update(part.contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def choose_rows(
    table: str | Path | EmbeddingTable,
    translators: Sequence[str | Path] = (),
    *,
    split: SplitName = "auto",
    source: str | None = None,
    target: str | None = None,
    item: str | None = None,
    labels: str | None = None,
    limit: int = MOST_ROWS,
) -> EvaluatedRows:
    """Read the rows of a table that translators are to be evaluated on.

    `auto` reads the rows that the table's split column calls test, else validation; without such a
    column the rows that were held out when the translators were trained on this very table; else
    all rows, which may be part of another training table. `held-out` reads the rows that the
    translators' training held out of this table, their only one or one of several.

    Args:
        table: Table or its folder.
        translators: Folders of the translators, with their `training.json`.
        split: Rows to read.
        source: Source column; the only CLIP column if None.
        target: Target column; the only CLAP column if None.
        item: Column whose equal values come from one item, as in training.
        labels: Column of labels.
        limit: Maximum number of rows; evenly spaced ones are kept.

    Raises:
        UserError: If there is no such column or split.

    Examples:
        >>> from clip2clap.evaluation import choose_rows
        >>> rows = choose_rows("audiocaps-val", split="all", limit=1000)  # doctest: +SKIP
    """
    table = table if isinstance(table, EmbeddingTable) else EmbeddingTable.open(table)
    _check(table, split, labels, limit)
    pairs = read_pairs(table, TrainingConfig(source=source, target=target, item=item))
    chosen, name = _rows_of(pairs, split, translators)
    if not len(chosen):
        raise UserError(
            f'{table.folder} has no {name} rows. Choose another split, such as "all".',
            param="split",
        )
    left_out = np.setdiff1d(np.arange(len(pairs)), chosen, assume_unique=True)
    rows = _evenly_spaced(chosen, limit)
    if len(rows) < len(chosen):
        name = f"{len(rows):,} of the {len(chosen):,} {name} rows"
    return EvaluatedRows(
        pairs=_subset(pairs, rows),
        ids=_select(table.ids, rows),
        split=name,
        labels=None if labels is None else _labels(table.source(labels), rows, labels),
        texts=_texts(table, rows),
        mean=_mean(pairs.target, left_out) if len(left_out) else None,
    )


def read_training(folder: str | Path) -> dict[str, Any] | None:
    """Read the `training.json` beside a translator; None if there is none."""
    try:
        return json.loads((Path(folder).expanduser() / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _check(table: EmbeddingTable, split: str, labels: str | None, limit: int) -> None:
    if split not in get_args(SplitName):
        raise UserError(
            f"Expected split to be one of {get_args(SplitName)}, got {split!r}.", param="split"
        )
    if limit < 2:
        raise UserError(f"Expected a limit of at least 2 rows, got {limit}.", param="limit")
    if labels is not None and labels not in table.sources:
        raise UserError(
            f"{table.folder} has no column {labels!r} for labels, only "
            f"{', '.join(table.sources) or 'ids'}.",
            param="labels",
        )


def _rows_of(
    pairs: Pairs, split: SplitName, translators: Sequence[str | Path]
) -> tuple[np.ndarray, str]:
    everything = np.arange(len(pairs))
    names = split_names(pairs.splits, len(pairs))
    if split == "all":
        return everything, "all"
    if split == "held-out":
        held_out = _held_out(pairs, translators, None)
        if held_out is None:
            raise UserError(
                f"None of the translators has a {REPORT_FILE} with its held-out rows. Choose "
                "another split.",
                param="split",
            )
        return held_out, split
    if split != "auto":
        if pairs.splits is None:
            raise UserError(
                f"The table has no split column that names {split} rows.", param="split"
            )
        return np.flatnonzero(names == split), split
    # A table of a single split may be training data, except for its held-out rows.
    named = ("test", "validation") if (names != names[0]).any() else ()
    for name in named:
        if (names == name).any():
            return np.flatnonzero(names == name), name
    held_out = _held_out(pairs, translators, pairs.fingerprint())
    # Another table may still hold the translators' training data.
    return (everything, UNKNOWN) if held_out is None else (held_out, "held-out")


def _held_out(
    pairs: Pairs, translators: Sequence[str | Path], data: str | None
) -> np.ndarray | None:
    """Find the rows that no translator was trained on.

    Args:
        pairs: Pairs of the table.
        translators: Folders of the translators.
        data: Fingerprint of the pairs; translators of other pairs do not count. None counts all.

    Returns:
        Indices, ascending; None if no translator counts.
    """
    kept = None
    for folder in translators:
        training = read_training(folder)
        if training is None or data not in (None, training.get("data")):
            continue
        settings: Mapping[str, Any] = training["settings"]
        rows = split_pairs(
            pairs, validation=settings["validation"], seed=settings["seed"]
        ).validation.numpy()
        kept = rows if kept is None else np.intersect1d(kept, rows)
        if not len(kept):
            raise UserError(
                "The translators were trained on different parts of this table, so that no row is "
                'held out of all. Choose another table, or split="all".',
                param="split",
            )
    return kept


def _subset(pairs: Pairs, rows: np.ndarray) -> Pairs:
    at = torch.from_numpy(rows)
    return Pairs(
        source=pairs.source[at],
        target=pairs.target[at],
        items=None if pairs.items is None else _select(pairs.items, rows),
        source_space=pairs.source_space,
        target_space=pairs.target_space,
        source_column=pairs.source_column,
        target_column=pairs.target_column,
    )


def _evenly_spaced(rows: np.ndarray, limit: int) -> np.ndarray:
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]


def _labels(values: Sequence[Any], rows: np.ndarray, column: str) -> list[str]:
    labels = ["" if values[row] is None else str(values[row]).strip() for row in rows]
    if not all(labels):
        raise UserError(
            f"{labels.count('')} of {len(labels)} rows have no label in the column {column!r}. "
            "Expected one in each row, or no column of labels.",
            param="labels",
        )
    if len(set(labels)) < 2:
        raise UserError(
            f"The column {column!r} holds one label only. Expected at least two.", param="labels"
        )
    return labels


def _texts(table: EmbeddingTable, rows: np.ndarray) -> list[str]:
    for column in ("caption", "file", "url"):
        if column in table.sources:
            values = table.source(column)
            return ["" if values[row] is None else str(values[row]) for row in rows]
    return _select(table.ids, rows)


def _select(values: Sequence[str], rows: np.ndarray) -> list[str]:
    places: list[int] = rows.tolist()
    return [values[place] for place in places]


def _mean(target: Vectors, rows: np.ndarray) -> Tensor:
    total = torch.zeros(target.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), _BATCH_SIZE):
        total += (
            unit_norm(target[torch.from_numpy(rows[start : start + _BATCH_SIZE])]).double().sum(0)
        )
    return (total / len(rows)).float()
