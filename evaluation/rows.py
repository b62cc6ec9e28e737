"""Which rows of a table an evaluation is about."""

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
from clip2clap.training.pairs import Pairs, Vectors, read_pairs, split_names, split_pairs
from clip2clap.training.run_folder import REPORT_FILE

SplitName = Literal["auto", "test", "validation", "train", "held-out", "all"]

UNKNOWN = "all, perhaps seen in training"
"""What rows are called of which nobody says whether translators have learnt from them."""

MOST_ROWS = 50_000
"""Rows measured on unless asked otherwise: every two are compared, which takes half a minute."""

_AT_ONCE = 65_536


@dataclass(frozen=True)
class EvaluatedRows:
    """Pairs to measure on, and what is known of them."""

    pairs: Pairs
    """The pairs."""

    ids: list[str]
    """Their ids in the table."""

    split: str
    """Which rows these are, in words for people."""

    labels: list[str] | None
    """The kind of each row, if a column was named."""

    texts: list[str]
    """What each row is, for people: its caption, file or id."""

    mean: Tensor | None
    """Mean target of the rows left out, shape (d,); None if there are none."""

    def fingerprint(self) -> str:
        """Give a name for what is to be found: ranks can be compared where it is the same."""
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
    """Take from a table what translators should be measured on.

    `auto` takes the rows that the table's split column calls test, else those it calls validation;
    without such a column the rows that were held out when the translators were trained on this
    very table; and if none of them was, all rows, which may have been part of another table they
    learnt from. `held-out` takes the rows that the translators' training holds out of this table,
    be it their only one or one of several.

    Args:
        table: The table or its folder.
        translators: Their folders, whose `training.json` says what they have seen.
        split: Which rows to take.
        source: Column to map from; None takes the only CLIP column.
        target: Column to map to; None takes the only CLAP column.
        item: Column that says which rows come from one thing; as in training.
        labels: Column of kinds.
        limit: Rows at most; of more, evenly spaced ones are taken.

    Returns:
        The pairs with their ids, labels and texts.

    Raises:
        UserError: If a column or the split isn't there.
    """
    if split not in get_args(SplitName):
        raise UserError(f"Expected split to be one of {get_args(SplitName)}, got {split!r}.")
    if limit < 2:
        raise UserError(f"Expected a limit of at least 2 rows, got {limit}.")
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    if labels is not None and labels not in table.sources:
        raise UserError(
            f"{table.folder} has no column {labels!r} for labels, only "
            f"{', '.join(table.sources) or 'ids'}."
        )
    pairs = read_pairs(table, TrainingConfig(source=source, target=target, item=item))
    chosen, name = _rows_of(pairs, split, translators)
    if not len(chosen):
        raise UserError(f"{table.folder} has no {name} rows. Choose another --split, or all.")
    left_out = np.setdiff1d(np.arange(len(pairs)), chosen, assume_unique=True)
    rows = _thinned(chosen, limit)
    if len(rows) < len(chosen):
        name = f"{len(rows):,} of the {len(chosen):,} {name} rows"
    at = torch.from_numpy(rows)
    kinds = None if labels is None else _named_kinds(table.source(labels), rows, labels)
    return EvaluatedRows(
        pairs=Pairs(
            source=pairs.source[at],
            target=pairs.target[at],
            items=None if pairs.items is None else _taken(pairs.items, rows),
            source_space=pairs.source_space,
            target_space=pairs.target_space,
            source_column=pairs.source_column,
            target_column=pairs.target_column,
        ),
        ids=_taken(table.ids, rows),
        split=name,
        labels=kinds,
        texts=_texts(table, rows),
        mean=_mean(pairs.target, left_out) if len(left_out) else None,
    )


def read_training(folder: str | Path) -> dict[str, Any] | None:
    """Give what `training.json` beside a translator says; None if there is none to be read."""
    try:
        return json.loads((Path(folder).expanduser() / REPORT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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
                f"None of the translators has a {REPORT_FILE} that says what was held out. Choose "
                "another --split."
            )
        return held_out, split
    if split != "auto":
        if pairs.splits is None:
            raise UserError(f"The table has no split column that says which rows are {split}.")
        return np.flatnonzero(names == split), split
    # A table of one split alone may have been trained on, but for what was held out of it.
    named = ("test", "validation") if (names != names[0]).any() else ()
    for name in named:
        if (names == name).any():
            return np.flatnonzero(names == name), name
    held_out = _held_out(pairs, translators, pairs.fingerprint())
    # Another table may still hold what translators were trained on.
    return (everything, UNKNOWN) if held_out is None else (held_out, "held-out")


def _held_out(
    pairs: Pairs, translators: Sequence[str | Path], data: str | None
) -> np.ndarray | None:
    """Give the rows that no translator was trained on.

    Args:
        pairs: The table's.
        translators: Their folders.
        data: The fingerprint of the pairs they were trained on; of others nothing is held out.
            None takes all translators for trained on these pairs.

    Returns:
        Indices; None if no translator counts.
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
                "The translators were trained on different parts of this table, so that there is "
                "no row none of them has seen. Evaluate on another table, or with --split all."
            )
    return kept


def _thinned(rows: np.ndarray, limit: int) -> np.ndarray:
    if len(rows) <= limit:
        return rows
    return rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]


def _named_kinds(values: Sequence[Any], rows: np.ndarray, column: str) -> list[str]:
    kinds = ["" if values[row] is None else str(values[row]).strip() for row in rows]
    if not all(kinds):
        raise UserError(
            f"{kinds.count('')} of {len(kinds)} rows have no label in the column {column!r}. Give "
            "each row one, or leave --labels out."
        )
    if len(set(kinds)) < 2:
        raise UserError(f"The column {column!r} holds one label only, so there is nothing to tell.")
    return kinds


def _texts(table: EmbeddingTable, rows: np.ndarray) -> list[str]:
    for column in ("caption", "file", "url"):
        if column in table.sources:
            values = table.source(column)
            return ["" if values[row] is None else str(values[row]) for row in rows]
    return _taken(table.ids, rows)


def _taken(values: Sequence[str], rows: np.ndarray) -> list[str]:
    places: list[int] = rows.tolist()
    return [values[place] for place in places]


def _mean(target: Vectors, rows: np.ndarray) -> Tensor:
    total = torch.zeros(target.shape[1], dtype=torch.float64)
    for start in range(0, len(rows), _AT_ONCE):
        total += unit_norm(target[torch.from_numpy(rows[start : start + _AT_ONCE])]).double().sum(0)
    return (total / len(rows)).float()
