"""`clip2clap train`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from clip2clap.translator.auto import AutoTranslator

Run = Callable[..., tuple[int, str, str]]


def test_train_writes_a_translator_and_shows_it_beside_chance(
    run: Run, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "translator"
    status, shown, _ = run("train", table, "-o", out, "--architecture", "procrustes")
    assert status == 0
    rows = {line[:20].strip(): line[20:].split() for line in shown.splitlines()}
    assert rows["recall at 1"][0] == "1.000"
    assert float(rows["recall at 1"][1]) < 0.3
    assert f"{out}: clip_text -> clap_text, 180 pairs, fitted in" in shown
    assert (
        "Next: clip2clap image-to-audio IMAGE -o audio --generator cvssp/audioldm-s-full-v2 "
        f"--translator {out}" in shown
    )
    translator = AutoTranslator.from_pretrained(out)
    assert translator.source_dim == translator.target_dim == 8
    # The way back is used with a decoder of pictures.
    columns = ("--source", "clap_text", "--target", "clip_text")
    status, shown, _ = run(
        "train", table, "-o", tmp_path / "b", "--architecture", "ridge", *columns
    )
    assert status == 0
    assert "Next: clip2clap audio-to-image AUDIO -o images --decoder DECODER" in shown


def test_train_hands_its_options_over_and_gives_the_report_as_json(
    run: Run, table: Path, tmp_path: Path
) -> None:
    status, shown, _ = run(
        *("train", table, "-o", tmp_path / "translator", "--json", "--source", "clip_text"),
        *(
            "--target",
            "clap_text",
            "--item",
            "caption",
            "--validation",
            "0.2",
            "--hidden-size",
            "32",
        ),
        *("--loss", "infonce", "--temperature", "0.1", "--epochs", "3", "--patience", "0"),
        *("--monitor", "cosine", "--batch-size", "16", "--learning-rate", "0.002", "--seed", "7"),
        *("--noise", "0.02", "--init", "random"),
    )
    assert status == 0
    report = json.loads(shown)["results"]
    expected = {
        "source": "clip_text",
        "target": "clap_text",
        "item": "caption",
        "validation": 0.2,
        "hidden_size": 32,
        "loss": "infonce",
        "temperature": 0.1,
        "epochs": 3,
        "patience": None,
        "monitor": "cosine",
        "batch_size": 16,
        "learning_rate": 0.002,
        "noise": 0.02,
        "init": "random",
        "seed": 7,
        "architecture": "mlp",
    }
    assert {name: report["settings"][name] for name in expected} == expected
    assert [epoch["epoch"] for epoch in report["history"]] == [1, 2, 3]
    assert report["pairs"]["validation"] == 40


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--learning-rate", "-1"], "--learning-rate: expected a positive number, got -1"),
        (["--source", "clip_image"], "clip_image"),
        (["--loss", "hinge"], "got 'hinge'"),
        (["--epochs", "0"], "epochs"),
    ],
)
def test_train_refuses_what_makes_no_sense_in_one_line(
    run: Run, table: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    status, shown, complaint = run("train", table, "-o", tmp_path / "translator", *options)
    assert (status, shown) == (2, "")
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert words in complaint


def test_train_names_a_table_that_is_not_there(run: Run, tmp_path: Path) -> None:
    status, _, complaint = run("train", tmp_path / "absent", "-o", tmp_path / "translator")
    assert (status, complaint.count("\n")) == (2, 1)
    assert "absent" in complaint
