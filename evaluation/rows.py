"""Rows of a table to evaluate translators on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path
from clip2clap.core.math import unit_norm
from clip2clap.core.moments import Moments
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
    """Pairs to evaluate on, with their metadata.

    Attributes:
        pairs: The pairs.
        ids: Ids in the table.
        split: Description of the rows, such as `held-out`.
        labels: Class of each row, if there is a column of labels.
        texts: Caption, file or id of each row, for display.
        mean: Mean target of the rows left out, shape (d,); None if there are none.
    """

    pairs: Pairs
    ids: list[str]
    split: str
    labels: list[str] | None
    texts: list[str]
    mean: Tensor | None

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
        >>> import torch
        >>> from clip2clap.embeddings import EmbeddingSpace, TableWriter
        >>> spaces = {
        ...     f"{family}_text": EmbeddingSpace(family, "a/model", "text", 4, True, "weights")
        ...     for family in ("clip", "clap")}
        >>> with TableWriter("captions", spaces) as writer:
        ...     writer.append(["a", "b"], {}, dict.fromkeys(spaces, torch.eye(2, 4)))
        >>> choose_rows("captions", split="all").ids
        ['a', 'b']
    """
    table = _open(table, split, labels, limit)
    pairs = read_pairs(table, TrainingConfig(source=source, target=target, item=item))
    chosen, name = _rows_of(pairs, split, translators)
    rows = chosen
    if len(chosen) > limit:
        rows = chosen[np.linspace(0, len(chosen) - 1, limit).astype(np.int64)]
        name = f"{limit:,} of the {len(chosen):,} {name} rows"
    return EvaluatedRows(
        pairs=_subset(pairs, rows),
        ids=_select(table.ids, rows),
        split=name,
        labels=None if labels is None else _labels(table.source(labels), rows, labels),
        texts=_texts(table, rows),
        mean=_mean_of_others(pairs.target, chosen),
    )


def read_training(folder: str | Path) -> dict[str, Any] | None:
    """Read the `training.json` beside a translator; None if there is none."""
    try:
        return json.loads((as_path(folder) / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _open(
    table: str | Path | EmbeddingTable, split: str, labels: str | None, limit: int
) -> EmbeddingTable:
    table = table if isinstance(table, EmbeddingTable) else EmbeddingTable.open(table)
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
    return table


def _rows_of(
    pairs: Pairs, split: SplitName, translators: Sequence[str | Path]
) -> tuple[np.ndarray, str]:
    """Return the rows to read, at least one, and their name."""
    everything = np.arange(len(pairs))
    names = split_names(pairs.splits, len(pairs))
    if split == "all":
        return everything, split
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
        if pairs.splits is None or not (names == split).any():
            raise UserError(
                f"The table has no split column that names {split} rows. Choose another split, "
                'such as "all".',
                param="split",
            )
        return np.flatnonzero(names == split), split
    # A table of a single split may be training data, except for its held-out rows.
    for name in ("test", "validation") if (names != names[0]).any() else ():
        if (names == name).any():
            return np.flatnonzero(names == name), name
    held_out = _held_out(pairs, translators, pairs.fingerprint())
    # Another table may still hold the translators' training data.
    return (everything, UNKNOWN) if held_out is None else (held_out, "held-out")


def _held_out(
    pairs: Pairs, translators: Sequence[str | Path], data: str | None
) -> np.ndarray | None:
    """Return the rows, ascending, that no translator was trained on; None if none counts.

    With the fingerprint of the pairs as `data`, translators of other pairs do not count.
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
    at, items = torch.from_numpy(rows), pairs.items and _select(pairs.items, rows)
    source, target = pairs.source[at], pairs.target[at]
    return replace(pairs, source=source, target=target, items=items, splits=None)


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
    columns = [name for name in ("caption", "file", "url") if name in table.sources]
    values = table.source(columns[0]) if columns else table.ids
    return ["" if value is None else str(value) for value in _select(values, rows)]


def _select(values: Sequence[Any], rows: np.ndarray) -> list[Any]:
    return [values[place] for place in rows.tolist()]


def _mean_of_others(target: Vectors, chosen: np.ndarray) -> Tensor | None:
    """Return the mean of the rows left out, shape (d,); None if there are none."""
    rows = np.setdiff1d(np.arange(target.shape[0]), chosen, assume_unique=True)
    if not len(rows):
        return None
    moments = Moments(target.shape[1])
    for batch in torch.from_numpy(rows).split(_BATCH_SIZE):
        moments.update(unit_norm(target[batch]))
    return torch.from_numpy(moments.mean).float()
