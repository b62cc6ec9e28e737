"""Results files and the report written from them."""

import json
from pathlib import Path

import numpy as np
import pytest

from clip2clap.core.errors import UserError
from clip2clap.evaluation.comparison import compare_results
from clip2clap.evaluation.report.page import write_evaluation_page
from clip2clap.evaluation.results import Results

from .builders import (
    fitted,
    pairs_of,
    results_of,
    shuffled,
)


def test_a_page_of_results_read_again_holds_the_same_metrics(tmp_path: Path) -> None:
    made = results_of({"good": fitted(pairs_of()[0])})
    made.write(tmp_path)
    read = Results.read(tmp_path)
    assert read.metrics == json.loads(json.dumps(made.metrics))
    pages = [
        write_evaluation_page(results, tmp_path / name).read_text()
        for name, results in (("one", made), ("two", read))
    ]
    assert pages[0] == pages[1]


def test_results_of_format_1_can_be_compared(tmp_path: Path) -> None:
    results = results_of({"good": fitted(pairs_of()[0]), "lost": fitted(shuffled(pairs_of()[0]))})
    part, renamed = results.metrics["embeddings"], {}
    for name in ("good", "lost"):
        for old in ("kind", "cosine"):
            values = results.per_row[f"embeddings/{name}/cosine"]
            renamed[f"embeddings/{name}/{old}"] = values
            renamed[f"sounds/{name}/{old}"] = values
    items = {f"{level}/items": np.arange(240) for level in ("embeddings", "sounds")}
    old = {"format": 1, "embeddings": part, "sounds": part}
    (tmp_path / "results.json").write_text(json.dumps(old))
    np.savez(tmp_path / "results.npz", **items, **renamed)
    read = Results.read(tmp_path)
    assert read.metrics["images"] is None
    found = compare_results(read)
    assert [d.metric for d in found] == ["cosine", "nearest_label"] * 2
    expected = {d.metric: d for d in compare_results(results)}["cosine"]
    assert found[0].difference.value == pytest.approx(expected.difference.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"can't be read as the results"):
        Results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 9}')
    np.savez(tmp_path / "results.npz")
    with pytest.raises(UserError, match="format 9"):
        Results.read(tmp_path)
