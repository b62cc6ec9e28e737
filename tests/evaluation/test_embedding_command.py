"""`clip2clap evaluate` on embeddings."""

import base64
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from clip2clap.evaluation.results import Results
from clip2clap.training.config import TrainingConfig
from clip2clap.training.train import train

from .builders import (
    Run,
    pairs_of,
    shuffled,
    write_table,
)


class Page(HTMLParser):
    """Collects what a page refers to, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A table with kinds, one translator trained on it and one on shuffled pairs."""
    pairs, labels = pairs_of(200)
    write_table(tmp_path / "table", pairs, kind=labels, caption=[f"<{i}>" for i in range(200)])
    config = TrainingConfig(
        hidden_size=32, epochs=12, batch_size=16, learning_rate=5e-3, validation=0.3
    )
    train(tmp_path / "table", tmp_path / "mlp", config)
    lost = write_table(tmp_path / "shuffled", shuffled(pairs))
    train(lost, tmp_path / "lost", replace(config, architecture="ridge"))
    return tmp_path


def test_the_command_writes_a_report_that_stands_alone(trained: Path, run: Run) -> None:
    names = (trained / "mlp", trained / "lost")
    code, out, _ = run(
        "evaluate",
        *names,
        "--table",
        trained / "table",
        "--label-column",
        "kind",
        "-o",
        trained / "out",
    )
    assert code == 0
    assert out.index("mlp") < out.index("shuffled") < out.index("lost") < out.index("mean vector")

    figures = json.loads((trained / "out" / "results.json").read_text())
    part = figures["embeddings"]
    assert part["split"] == "held-out"
    mlp, lost = part["translators"]
    assert mlp["architecture"] == "MLPTranslator"
    assert len(mlp["history"]) == 12
    assert mlp["scores"]["forward"]["mrr"]["low"] > lost["scores"]["forward"]["mrr"]["high"]

    page = read_page(trained / "out" / "report.html")
    pictures = [source for source in page.sources if source.startswith("data:image/png;base64,")]
    assert pictures == page.sources
    # Learning and recall curves, histograms, planes, confusion.
    assert len(pictures) == 5
    for picture in pictures:
        assert base64.b64decode(picture.split(",")[1]).startswith(b"\x89PNG")
    words = " ".join(page.words)
    shown = mlp["scores"]["forward"]["recall_at_10"]["value"]
    assert f"{100 * shown:.1f} %" in words
    rows = Results.read(trained / "out").per_row
    best = np.lexsort((-rows["embeddings/mlp/cosine"], rows["embeddings/mlp/forward"]))[0]
    name = str(rows["embeddings/ids"][best])
    assert name in page.words
    assert name.replace("row", "<") + ">" in page.words


def test_json_on_stdout_is_the_file(trained: Path, run: Run) -> None:
    code, out, _ = run(
        "evaluate", trained / "mlp", "--table", trained / "table", "-o", trained / "o", "--json"
    )
    assert code == 0
    assert json.loads(out)["results"] == json.loads((trained / "o" / "results.json").read_text())


def test_translators_of_one_name_are_distinguished_by_their_folders(
    trained: Path, run: Run
) -> None:
    for parent in ("a", "b"):
        (trained / parent).mkdir()
        (trained / "mlp").rename(trained / parent / "mlp") if parent == "a" else (
            trained / "lost"
        ).rename(trained / parent / "mlp")
    code, out, _ = run(
        "evaluate",
        *(trained / parent / "mlp" for parent in "ab"),
        *("--table", trained / "table", "-o", trained / "o", "--json"),
    )
    assert code == 0
    translators = json.loads(out)["results"]["embeddings"]["translators"]
    named = [one["scores"]["name"] for one in translators]
    assert named == ["a/mlp", "b/mlp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "--table"),
        (["missing", "--table", "TABLE", "-o", "OUT"], "missing"),
        (["demo", "--table", "TABLE", "-o", "OUT"], "source"),
        (["demo", "--table", "nothing", "-o", "OUT"], "--table: nothing is not a folder"),
        (["demo", "--table", "TABLE", "-o", "OUT", "--resamples", "3"], "--resamples"),
        (["a", "b", "c", "--compare"], "one or two"),
        (["nothing.json", "--compare"], "nothing.json does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, run: Run
) -> None:
    table = write_table(tmp_path / "table", pairs_of(20)[0])
    places = {"TABLE": str(table), "OUT": str(tmp_path / "out")}
    code, _, err = run("evaluate", *(places.get(word, word) for word in arguments))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
