"""Fit of a translator to two tables of different items, without pairs."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, expect
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import find_column
from clip2clap.training.splits import split_names, thin_out
from clip2clap.translator.unpaired import fit_unpaired

# Rows per side of an unpaired fit, all in memory.
MOST_ROWS = 60_000


@dataclass(frozen=True)
class UnpairedReport:
    """Report of an unpaired fit to two tables."""

    output: str
    source_column: str
    target_column: str
    source_rows: int
    target_rows: int
    consistency: float
    """Mean cosine similarity of mapped cluster centers and the target's, 1 for equal clouds."""

    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


def train_unpaired(
    source_table: str | Path | EmbeddingTable,
    target_table: str | Path | EmbeddingTable,
    output: str | Path,
    config: TrainingConfig,
    *,
    overwrite: bool = False,
) -> UnpairedReport:
    """Fit a rotation from one table's embeddings into another table's, and save it.

    Rows whose split is validation or test are left out. There are no pairs to measure it on: the
    `consistency` is the only sign of success.

    Args:
        source_table: Table with the source embeddings, or its folder.
        target_table: Table of other, alike items with the target embeddings, or its folder.
        output: Folder of the translator.
        config: Settings with the architecture `unpaired`, the columns and the seed.
        overwrite: Replace a translator in `output`.

    Returns:
        Report of the fit.

    Raises:
        UserError: If the architecture is another, a column is missing, a table has too few rows,
            or `output` holds a translator.
    """
    expect(config.architecture == "unpaired", "architecture", "unpaired", config.architecture)
    folder, started = Path(output), time.monotonic()
    if (folder / "config.json").exists() and not overwrite:
        raise UserError(f"{folder} already holds a config.json.", param="overwrite")
    source, source_space, source_column = _side(source_table, config.source or "clip", "source")
    target, target_space, target_column = _side(target_table, config.target or "clap", "target")
    translator = fit_unpaired(source, target, seed=config.seed)
    recipe = dict(translator.provenance.recipe or {})
    report = UnpairedReport(
        str(folder),
        source_column,
        target_column,
        len(source),
        len(target),
        consistency=recipe["consistency"],
        seconds=time.monotonic() - started,
    )
    sides = ("source_column", "target_column", "source_rows", "target_rows")
    translator.record(
        source_space=source_space,
        target_space=target_space,
        recipe={**recipe, **{name: getattr(report, name) for name in sides}},
    )
    translator.save_pretrained(folder)
    return report


def _side(
    table: str | Path | EmbeddingTable, name: str, side: str
) -> tuple[Tensor, EmbeddingSpace, str]:
    """Return the training rows of a table's column, its space and its name."""
    if not isinstance(table, EmbeddingTable):
        table = EmbeddingTable.open(table)
    column = find_column(table, name, side)
    splits = table.source("split") if "split" in table.sources else None
    names = split_names(splits, len(table))
    rows = thin_out(torch.from_numpy((names == "train").nonzero()[0]), most=MOST_ROWS)
    return table.read(column, rows), table.spaces[column], column
