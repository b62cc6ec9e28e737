"""Unpaired fits to two tables, by the library and by `train --target-table`."""

from typing import Any

import pytest
import torch

from clip2clap import EmbeddingSpace
from clip2clap.core.errors import UserError
from clip2clap.embeddings import TableWriter
from clip2clap.training import TrainingConfig
from clip2clap.training.unpaired import train_unpaired
from clip2clap.translator import AutoTranslator
from clip2clap.translator.unpaired import fit_unpaired

ROWS = 120


def write_table(folder, family, seed, splits=None):
    """Write a table with one column of random vectors."""
    space = EmbeddingSpace(family, f"tiny-{family}", "text", 8, True, family)
    vectors = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(seed))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    column = f"{family}_text"
    sources = {"split": splits} if splits else {}
    with TableWriter(folder, {column: space}, dtype="float32") as writer:
        writer.append([f"{seed}-{n}" for n in range(ROWS)], sources, {column: vectors})
    return vectors


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """Two tables of different items, the second with a test split; fits are short."""
    splits = ["train"] * 110 + ["test"] * 10
    images = write_table(tmp_path / "images", "clip", 1)
    audio = write_table(tmp_path / "audio", "clap", 2, splits)
    monkeypatch.setattr(
        "clip2clap.training.unpaired.fit_unpaired",
        lambda *sides, seed: fit_unpaired(*sides, runs=1, iterations=1, seed=seed),
    )
    return tmp_path, images, audio


def test_a_fit_to_two_tables_is_that_to_their_training_rows(tables):
    folder, images, audio = tables
    config = TrainingConfig(architecture="unpaired", seed=3)
    report = train_unpaired(folder / "images", folder / "audio", folder / "out", config)
    assert (report.source_rows, report.target_rows) == (ROWS, 110)
    fitted = AutoTranslator.from_pretrained(folder / "out")
    expected = fit_unpaired(images, audio[:110], runs=1, iterations=1, seed=3)
    torch.testing.assert_close(fitted(images), expected(images))
    provenance: Any = fitted.provenance
    assert provenance.source_space.model_id == "tiny-clip"
    assert provenance.target_space.model_id == "tiny-clap"
    assert provenance.recipe["consistency"] == report.consistency
    assert provenance.recipe["target_rows"] == 110


def test_what_cannot_be_fitted_is_refused(tables):
    folder, *_ = tables
    config = TrainingConfig(architecture="unpaired")
    with pytest.raises(UserError, match="architecture"):
        train_unpaired(folder / "images", folder / "audio", folder / "out", TrainingConfig())
    with pytest.raises(UserError, match="no CLAP embeddings"):
        train_unpaired(folder / "images", folder / "images", folder / "out", config)
    train_unpaired(folder / "images", folder / "audio", folder / "out", config)
    with pytest.raises(UserError, match="already holds"):
        train_unpaired(folder / "images", folder / "audio", folder / "out", config)


def test_the_command_fits_two_tables(tables, run, monkeypatch):
    folder, *_ = tables
    monkeypatch.chdir(folder)
    code, out, error = run(
        "train", "images", "-o", "out", "--architecture", "unpaired", "--target-table", "audio"
    )
    assert code == 0, error
    assert "clip_text -> clap_text, 120 and 110 rows without pairs" in out
    assert AutoTranslator.from_pretrained("out").target_dim == 8
    code, _, error = run("train", "images", "--target-table", "audio")
    assert code == 2
    assert "--target-table: it is for --architecture unpaired" in error
