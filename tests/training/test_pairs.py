from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, join_pairs, read_pairs
from clip2clap.training.train import train, train_translator

from .builders import CLAP, CLIP, QUICK, equal, learnable


def test_a_table_gives_its_columns_spaces_and_items(table: Path):
    made = read_pairs(table, TrainingConfig())
    opened = EmbeddingTable.open(table)
    assert (made.source_column, made.target_column) == ("clip_text", "clap_text")
    everything = torch.arange(len(opened))
    assert torch.equal(made.source[everything], opened.tensor("clip_text"))
    assert torch.equal(made.target[everything], opened.tensor("clap_text"))
    assert (made.source_space, made.target_space) == (CLIP, CLAP)
    assert made.items == opened.source("file")
    assert read_pairs(table, TrainingConfig(item="caption")).items == opened.source("caption")
    assert read_pairs(table, TrainingConfig(item="id")).items == opened.ids


def test_the_other_direction_is_a_matter_of_naming_the_columns(table: Path):
    config = replace(QUICK, source="clap_text", target="clip_text")
    backwards = train_translator(table, config)
    assert (backwards.source_space, backwards.target_space) == (CLAP, CLIP)


def test_columns_that_are_not_there_or_not_clear_are_refused(table: Path, tmp_path: Path):
    for config, message in [
        (TrainingConfig(source="clip_image"), r"no embeddings 'clip_image' .*clip_text, clap_text"),
        (TrainingConfig(item="clip"), r"no column 'clip' .*id, caption, file"),
        (TrainingConfig(source="clap_text"), "both 'clap_text'"),
    ]:
        with pytest.raises(UserError, match=message):
            train(table, tmp_path / "out", config)
    spaces = {"clip_text": CLIP, "clip_image": CLIP.in_modality("image"), "clap_text": CLAP}
    made = learnable(4)
    with TableWriter(tmp_path / "two", spaces) as writer:
        embeds = {name: made.source for name in spaces if name != "clap_text"}
        writer.append(list("abcd"), {}, {**embeds, "clap_text": made.target})
    with pytest.raises(UserError, match="several CLIP embeddings"):
        train(tmp_path / "two", tmp_path / "out")
    with pytest.raises(UserError, match="holds no table"):
        train(tmp_path / "nowhere", tmp_path / "out")


def test_rows_without_an_item_stand_for_themselves(tmp_path: Path):
    made = learnable(4)
    with TableWriter(tmp_path, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
        embeds = {"clip_text": made.source, "clap_text": made.target}
        writer.append(list("abcd"), {"file": ["x", None, "x", None]}, embeds)
    assert read_pairs(tmp_path, TrainingConfig()).items == ["x", "b", "x", "d"]


def test_pairs_that_make_no_sense_are_refused():
    made = learnable(10)
    with pytest.raises(UserError, match="9 source and 10 target"):
        Pairs(made.source[:9], made.target)
    with pytest.raises(UserError, match="one of items for each of 10 rows, got 3"):
        Pairs(made.source, made.target, items=["a", "b", "c"])
    with pytest.raises(UserError, match="1 of 10 target rows are zero or not finite"):
        Pairs(made.source, made.target.index_fill(0, torch.tensor(4), 0))


def test_a_table_stays_on_disk_and_trains_like_tensors_in_memory(table: Path):
    made, opened = read_pairs(table, QUICK), EmbeddingTable.open(table)
    whole = {name: opened.tensor(name) for name in ("clip_text", "clap_text")}
    assert not isinstance(made.source, Tensor)
    in_memory = replace(made, source=whole["clip_text"], target=whole["clap_text"])
    assert equal(train_translator(made, QUICK), train_translator(in_memory, QUICK))
    joined = join_pairs([made, in_memory])
    rows = torch.tensor([0, 5, 99, 100, 150, 199])
    assert torch.equal(joined.target[rows], torch.cat([whole["clap_text"]] * 2)[rows])
