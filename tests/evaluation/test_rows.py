"""Rows of a table to evaluate on."""

from pathlib import Path

import pytest
import torch

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.evaluation.rows import choose_rows
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import join_pairs, read_pairs
from clip2clap.training.splits import split_pairs, split_together
from clip2clap.training.train import train

from .builders import (
    pairs_of,
    sides,
    write_table,
)


def test_test_rows_are_taken_first_then_validation(tmp_path: Path) -> None:
    pairs, labels = pairs_of(40)
    splits = ["train"] * 20 + ["validation"] * 12 + ["test"] * 8
    table = write_table(tmp_path / "split", pairs, split=splits, kind=labels)
    chosen = choose_rows(table, labels="kind")
    assert chosen.split == "test"
    assert chosen.ids == [f"row{i}" for i in range(32, 40)]
    assert chosen.labels == labels[32:]
    target = sides(pairs)[1].half()
    assert torch.equal(sides(chosen.pairs)[1], target[32:])
    assert chosen.mean is not None
    assert torch.allclose(chosen.mean, unit_norm(target[:32]).mean(0), atol=1e-6)
    assert choose_rows(table, split="validation").ids[0] == "row20"
    assert len(choose_rows(table, split="all").ids) == 40
    assert choose_rows(table, split="all", limit=3).ids == ["row0", "row19", "row39"]
    unsaid = write_table(tmp_path / "unsaid", pairs, caption=["x"] * 40)
    with pytest.raises(UserError, match="no split column"):
        choose_rows(unsaid, split="test")
    with pytest.raises(UserError, match="no column 'kind'"):
        choose_rows(unsaid, labels="kind")
    with pytest.raises(UserError, match="one label only"):
        choose_rows(unsaid, labels="caption")


def test_rows_that_a_translator_was_trained_on_are_left_out(tmp_path: Path) -> None:
    pairs, _ = pairs_of(100)
    table = write_table(tmp_path / "table", pairs)
    train(table, tmp_path / "one", TrainingConfig(architecture="ridge", validation=0.2, seed=4))
    chosen = choose_rows(table, [tmp_path / "one"])
    assert chosen.split == "held-out"
    held = split_pairs(read_pairs(table, TrainingConfig()), validation=0.2, seed=4).validation
    assert chosen.ids == [f"row{i}" for i in held.tolist()]
    # Two draws have little in common, and another table has nothing to do with it.
    train(table, tmp_path / "two", TrainingConfig(architecture="ridge", validation=0.02, seed=5))
    with pytest.raises(UserError, match="different parts"):
        choose_rows(table, [tmp_path / "one", tmp_path / "two"])
    # Of tables that are learnt from together, as in a sweep, the same rows are held out of each.
    more = write_table(tmp_path / "more", pairs_of(30, seed=90)[0])
    both = [read_pairs(folder, TrainingConfig()) for folder in (table, more)]
    train(
        join_pairs(both),
        tmp_path / "both",
        TrainingConfig(architecture="ridge", validation=0.2, seed=4),
    )
    assert choose_rows(table, [tmp_path / "both"]).split == "all, perhaps seen in training"
    chosen = choose_rows(table, [tmp_path / "both"], split="held-out")
    together = split_together(both, validation=0.2, seed=4)[0]
    assert chosen.ids == [f"row{i}" for i in together.validation.tolist()]
    with pytest.raises(UserError, match=r"training\.json"):
        choose_rows(table, ["demo"], split="held-out")
    other = write_table(tmp_path / "other", pairs_of(30, seed=80)[0])
    assert choose_rows(other, [tmp_path / "one"]).split == "all, perhaps seen in training"
