"""`clip2clap sweep`."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


def test_sweep_trains_the_way_back_and_says_which_model_is_best(
    run: Run, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    grid = ["--hidden-size", "4,8", "--loss", "cosine,cosine:1+infonce:0.1", "--epochs", "2"]
    command = ["sweep", table, "-o", out, "--source", "clap", "--target", "clip", *grid]
    status, shown, _ = run(*command)
    assert status == 0
    names = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert names == sorted(
        f"{table.name}-{hidden}-{loss}"
        for hidden in (4, 8)
        for loss in ("cosine", "cosine1+infonce0.1")
    )
    assert str(out / "report.html") in shown.replace("\n", "")
    status, shown, _ = run(
        "sweep", table, "-o", out, "--source", "clap", "--target", "clip", *grid, "--json"
    )
    rows = json.loads(shown)["results"]
    assert status == 0
    assert {row["name"] for row in rows} == set(names)
    assert {(row["source"], row["target"]) for row in rows} == {("clap_text", "clip_text")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--hidden-size", "256,wide"], "--hidden-size: expected numbers separated by commas"),
        (["--loss", "cosine,hinge"], "got 'hinge'"),
        (["--tracker", "paper"], "'paper' isn't installed"),
        (["--source", "clip_image"], "no embeddings 'clip_image'"),
    ],
)
def test_sweep_refuses_what_makes_no_sense_in_one_line(
    run: Run, table: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    status, shown, complaint = run("sweep", table, "-o", tmp_path / "sweep", *options)
    assert (status, shown) == (2, "")
    assert complaint.count("\n") == 1
    assert words in complaint


def test_a_sweep_on_tables_of_long_names_fits_80_columns(
    run: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = table.rename(tmp_path / "conceptual-captions-validation")
    other = shutil.copytree(long, tmp_path / "audiocaps-train-captions")
    grid = ("--hidden-size", 4, "--loss", "cosine:1+infonce:0.1", "--epochs", 1)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, shown, _ = run("sweep", long, "--plus", other, "-o", tmp_path / "sweep", *grid)
    assert status == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()
    assert lines[0].split() == [
        "model",
        *["mrr", "recall", "at", "10", "on", "1", "on", "2", "epochs"],
    ]
    assert max(len(line) for line in lines[: lines.index(f"on 1: {long.name}")]) <= 80
    assert "…" not in shown
