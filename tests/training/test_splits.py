from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip2clap.core.errors import UserError
from clip2clap.training.splits import split_pairs, thin_out
from clip2clap.training.train import train, train_translator
from clip2clap.translator.auto import AutoTranslator

from .builders import QUICK, equal, learnable


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 12), min_size=2, max_size=80).filter(lambda x: len(set(x)) > 1),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
def test_no_item_is_ever_on_both_sides_and_no_row_is_lost(owners, share: float, seed: int):
    made = replace(learnable(len(owners)), items=[f"clip {owner}" for owner in owners])
    split = split_pairs(made, validation=share, seed=seed)
    sides = [{owners[row] for row in part.tolist()} for part in (split.train, split.validation)]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]
    assert sorted([*split.train.tolist(), *split.validation.tolist()]) == list(range(len(owners)))


def test_the_share_held_out_is_the_share_asked_for():
    made = learnable(1000, items=[f"clip {i // 5}" for i in range(1000)])
    split = split_pairs(made, validation=0.2, seed=0)
    assert len(split.validation) == pytest.approx(200, abs=5)
    other = split_pairs(made, validation=0.2, seed=1)
    assert split.validation.tolist() != other.validation.tolist()


def test_the_split_goes_by_name_and_not_by_position():
    made = learnable(200, items=[f"clip {i}" for i in range(200)])
    split = split_pairs(made, validation=0.3, seed=0)
    held_out = {f"clip {row}" for row in split.validation.tolist()}
    backwards = replace(made, items=[f"clip {199 - i}" for i in range(200)])
    again = split_pairs(backwards, validation=0.3, seed=0)
    assert {f"clip {199 - row}" for row in again.validation.tolist()} == held_out


def test_the_data_sets_own_split_is_respected_and_test_pairs_are_measured_on(tmp_path: Path):
    splits = ["train"] * 200 + ["val"] * 60 + ["test"] * 40
    made = replace(learnable(), splits=splits)
    split = split_pairs(made, validation=0.5, seed=0)
    assert split.validation.tolist() == list(range(200, 260))
    assert split.test.tolist() == list(range(260, 300))
    report = train(made, tmp_path, QUICK)
    assert (report.measured_on, report.metrics["gallery"]) == ("test", 40)
    assert report.history[0].validation["gallery"] == 60
    # What the test targets are has no influence on the weights.
    spoilt = replace(made, target=made.target.clone())
    spoilt.target[260:] = spoilt.target[260:].flip(0)
    assert equal(train_translator(spoilt, QUICK), AutoTranslator.from_pretrained(tmp_path))


def test_validation_is_drawn_from_the_training_rows_if_only_a_test_split_is_named():
    made = replace(learnable(100), splits=["train"] * 80 + ["test"] * 20)
    split = split_pairs(made, validation=0.25, seed=0)
    assert split.test.tolist() == list(range(80, 100))
    assert len(split.validation) == 20
    assert split.validation.max() < 80


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_table_of_one_split_alone_is_split_as_one_without_names(name):
    made = learnable(100)
    unnamed = split_pairs(made, validation=0.25, seed=0)
    split = split_pairs(replace(made, splits=[name] * 100), validation=0.25, seed=0)
    assert split.validation.tolist() == unnamed.validation.tolist()
    assert len(split.test) == 0


def test_splits_that_make_no_sense_are_refused():
    made = learnable(10)
    with pytest.raises(UserError, match="says holdout; expected train, validation or test"):
        split_pairs(replace(made, splits=["train"] * 9 + ["holdout"]), validation=0.1, seed=0)
    leaking = replace(made, items=["same"] * 10, splits=["train"] * 9 + ["test"])
    with pytest.raises(UserError, match=r"1 items are in both the train and the test.*'same'"):
        split_pairs(leaking, validation=0.1, seed=0)
    with pytest.raises(UserError, match="at least two items"):
        split_pairs(replace(made, items=["same"] * 10), validation=0.1, seed=0)


def test_only_so_many_rows_are_held_out_and_ranked():
    split = split_pairs(learnable(), validation=0.5, seed=0, max_held_out=20)
    assert len(split.validation) == 20
    many = replace(learnable(5_200), splits=["train"] * 100 + ["validation"] * 5_100)
    assert len(thin_out(split_pairs(many, validation=0.5, seed=0).validation)) == 5_000
    trained = train_translator(many, replace(QUICK, epochs=1, architecture="ridge", alpha=1.0))
    assert trained.config["metrics"]["gallery"] == 5_000
