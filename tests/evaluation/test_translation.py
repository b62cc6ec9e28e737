"""Evaluations of translators whose worth is known, and the files that come of them."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
)
from clip2clap.embeddings.table.reader import TableWriter
from clip2clap.evaluation.comparison import compare_results
from clip2clap.evaluation.geometry import hubness
from clip2clap.evaluation.report.page import write_evaluation_page
from clip2clap.evaluation.results import Results, embedding_results, join_results
from clip2clap.evaluation.rows import EvaluatedRows, choose_rows
from clip2clap.evaluation.translation import (
    EmbeddingEvaluation,
    evaluate,
)
from clip2clap.metrics.bootstrap import Resamples
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, join_pairs, read_pairs, split_pairs, split_together
from clip2clap.training.trainer import train
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import fit_ridge

CLIP = EmbeddingSpace("clip", "some/clip", "text", 16, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 12, True, "c1a9")
KINDS = ("bird", "can", "dog", "sea")

Run = Callable[..., tuple[int, str, str]]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sides(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Both sides, which lie in memory in these tests."""
    assert isinstance(pairs.source, Tensor)
    assert isinstance(pairs.target, Tensor)
    return pairs.source, pairs.target


def pairs_of(n: int = 240, *, spread: float = 0.3, seed: int = 0) -> tuple[Pairs, list[str]]:
    """Pairs of four kinds with a linear way from one side to the other."""
    kinds = torch.arange(n) % len(KINDS)
    causes = 2 * noise(len(KINDS), 8, seed=9)[kinds] + noise(n, 8, seed=seed)
    source = unit_norm(causes @ noise(8, 16, seed=1) + spread * noise(n, 16, seed=seed + 2))
    target = unit_norm(causes @ noise(8, 12, seed=3) + spread * noise(n, 12, seed=seed + 4))
    pairs = Pairs(source, target, source_space=CLIP, target_space=CLAP)
    return pairs, [KINDS[kind] for kind in kinds]


def fitted(pairs: Pairs) -> Translator:
    translator = fit_ridge(*sides(pairs), alpha=0.1)
    translator.record(source_space=CLIP, target_space=CLAP)
    return translator


@pytest.fixture(scope="module")
def evaluation() -> EmbeddingEvaluation:
    """A fitted translator and one of noise on pairs that neither has seen."""
    pairs, labels = pairs_of(seed=50)
    translators = {"fitted": fitted(pairs_of()[0]), "lost": fitted(shuffled(pairs_of()[0]))}
    return evaluate(translators, pairs, labels=labels)


def shuffled(pairs: Pairs) -> Pairs:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    return replace(pairs, target=pairs.target[order])


def write_table(folder: Path, pairs: Pairs, **sources: list[Any]) -> Path:
    with TableWriter(folder, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
        writer.append(
            [f"row{i}" for i in range(len(pairs))],
            sources,
            dict(zip(("clip_text", "clap_text"), sides(pairs), strict=True)),
        )
    return folder


# Embedding level


def test_random_vectors_are_found_as_often_as_chance_has_it() -> None:
    pairs = Pairs(noise(400, 16, seed=100), noise(400, 12, seed=101))
    scores = evaluate({"any": fitted(pairs_of()[0])}, pairs).translators[0].scores
    for direction in (scores.forward, scores.backward, scores.csls):
        for k in (1, 5, 10):
            figure = direction[f"recall_at_{k}"]
            assert figure.low <= k / 400 <= figure.high
        assert direction["median_rank"].low <= 200 <= direction["median_rank"].high


def test_identical_sides_are_perfect() -> None:
    pairs, labels = pairs_of(60)
    target = sides(pairs)[1]
    same = Pairs(target, target)
    identity = fit_ridge(target, target, alpha=0.0, center=False)
    scores = evaluate({"same": identity}, same, labels=labels).translators[0].scores
    for direction in (scores.forward, scores.backward):
        assert {direction[name].value for name in direction} == {1}
    assert scores.cosine.value == pytest.approx(1)
    assert scores.gap_distance.value == pytest.approx(0, abs=1e-4)


def test_a_fitted_translator_beats_its_controls_and_one_of_shuffled_pairs_does_not(
    evaluation: EmbeddingEvaluation,
) -> None:
    good, lost = evaluation.translators
    chance = 10 / 240
    assert good.scores.forward["recall_at_10"].low > 5 * chance
    assert good.scores.backward["recall_at_10"].low > 5 * chance
    assert good.scores.cosine.low > evaluation.mean_vector.cosine.high + 0.2
    for control in (good.shuffled, evaluation.mean_vector, lost.scores):
        assert control.forward["recall_at_10"].value == pytest.approx(chance, abs=0.05)
    # Seen from the targets, an answer that is always the same finds nothing.
    assert evaluation.mean_vector.backward["recall_at_10"].value == 0
    assert evaluation.mean_vector.hubness.value > 3 * good.scores.hubness.value


def test_kinds_are_told_apart_unless_pairs_are_shuffled(evaluation: EmbeddingEvaluation) -> None:
    good, lost = evaluation.translators
    kinds = good.scores.nearest_label
    assert kinds is not None
    assert kinds.names == list(KINDS)
    assert kinds.accuracy.low > 0.8
    assert kinds.accuracy.value == pytest.approx(np.trace(kinds.confusion) / 240)
    assert kinds.balanced == pytest.approx(kinds.accuracy.value)
    for control in (good.shuffled, evaluation.mean_vector, lost.scores):
        assert control.nearest_label is not None
        assert control.nearest_label.accuracy.value == pytest.approx(0.25, abs=0.1)


def test_figures_are_those_of_the_rows(evaluation: EmbeddingEvaluation) -> None:
    rows, scores = evaluation.per_row, evaluation.translators[0].scores
    assert scores.forward["recall_at_5"].value == np.mean(rows["fitted/forward"] <= 5)
    assert scores.backward["mrr"].value == pytest.approx(np.mean(1 / rows["fitted/backward"]))
    assert scores.cosine == Resamples(range(240)).mean(rows["fitted/cosine"])


def test_hubness_and_gap_have_their_known_values() -> None:
    # Everything points near one target, which is then everyone's neighbour.
    gap = torch.tensor([0.0, 1.0])
    target = unit_norm(torch.cat([noise(50, 2) * 0.1 + torch.tensor([1.0, 0.0]), gap[None]]))
    same = Pairs(unit_norm(target @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])), target)
    turn = fit_ridge(target, target, alpha=0.0, center=False)
    found = evaluate({"none": turn}, same)
    assert found.gap_before is not None
    # A quarter turn between the means, whose lengths are alike.
    assert found.gap_before["angle"].value == pytest.approx(90, abs=1e-3)
    length = target.mean(0).norm().item()
    assert found.gap_before["distance"].value == pytest.approx(length * 2**0.5, abs=1e-4)
    for figure in found.gap_before.values():
        assert figure.low < figure.value < figure.high
    counts = np.bincount([0] * 30 + [1] * 5 + [2] * 5, minlength=40)
    skewness = hubness(counts, Resamples(range(40), resamples=2000))
    assert skewness.value == pytest.approx(float(stats.skew(counts)))
    assert skewness.low <= skewness.value <= skewness.high
    assert hubness(np.ones(40), Resamples(range(40))).value == 0


def test_rows_of_one_item_widen_the_interval() -> None:
    pairs, _ = pairs_of(200)
    source, target = (side.repeat_interleave(5, 0) for side in sides(pairs))
    five = Pairs(source, target)
    clips = [str(i // 5) for i in range(1000)]
    translators = {"fitted": fitted(pairs_of(seed=9)[0])}
    apart = evaluate(translators, five).translators[0].scores.cosine
    together = evaluate(translators, replace(five, items=clips))
    held = together.translators[0].scores.cosine
    assert together.gallery == 200
    assert (held.high - held.low) / (apart.high - apart.low) == pytest.approx(5**0.5, rel=0.2)


def test_what_cannot_be_measured_is_refused() -> None:
    pairs, labels = pairs_of(20)
    translator = fitted(pairs)
    with pytest.raises(UserError, match="no translator"):
        evaluate({}, pairs)
    with pytest.raises(UserError, match="one item"):
        evaluate({"a": translator}, replace(pairs, items=["x"] * 20))
    with pytest.raises(UserError, match="label for each of 20 rows, got 19"):
        evaluate({"a": translator}, pairs, labels=labels[1:])
    foreign = replace(CLAP, fingerprint="other")
    with pytest.raises(SpaceMismatchError, match="target"):
        evaluate({"a": translator}, replace(pairs, target_space=foreign))
    broken = sides(pairs)[0].clone()
    broken[3, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        evaluate({"a": translator}, replace(pairs, source=broken))


# Rows


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


# Files


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
        "evaluate", *names, "--table", trained / "table", "--labels", "kind", "-o", trained / "out"
    )
    assert code == 0
    assert out.index("mlp") < out.index("lost") < out.index("shuffled") < out.index("mean vector")

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
    assert json.loads(out) == json.loads((trained / "o" / "results.json").read_text())


def test_translators_of_one_name_are_told_apart_by_their_folders(trained: Path, run: Run) -> None:
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
    named = [one["scores"]["name"] for one in json.loads(out)["embeddings"]["translators"]]
    assert named == ["a/mlp", "b/mlp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "--table"),
        (["demo", "--table", "TABLE"], "--output"),
        (["missing", "--table", "TABLE", "-o", "OUT"], "missing"),
        (["demo", "--table", "TABLE", "-o", "OUT"], "source"),
        (["demo", "--table", "nothing", "-o", "OUT"], "no table"),
        (["demo", "--table", "TABLE", "-o", "OUT", "--resamples", "3"], "--resamples"),
        (["a", "b", "c", "--compare"], "one or two"),
        (["nothing.json", "--compare"], "can't be read"),
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


# Comparison


def results_of(
    translators: dict[str, Translator], *, seed: int = 50, pairs: Pairs | None = None
) -> Results:
    pairs = pairs or pairs_of(seed=seed)[0]
    rows = EvaluatedRows(pairs, [f"row{i}" for i in range(len(pairs))], "all", None, [], None)
    found = evaluate(translators, pairs)
    named = {name: ("folder", translator) for name, translator in translators.items()}
    part = embedding_results(rows, found, named, table="table", labels=None)
    return join_results(seed=0, embeddings=part)


def test_a_real_difference_is_told_from_chance(tmp_path: Path) -> None:
    good = fitted(pairs_of()[0])
    nearly = fitted(pairs_of(seed=1)[0])
    lost = fitted(shuffled(pairs_of()[0]))
    (tmp_path / "a").mkdir()
    results_of({"good": good}).write(tmp_path / "a")
    one = Results.read(tmp_path / "a" / "results.json")
    by_name = {d.metric: d for d in compare_results(one, results_of({"lost": lost}))}
    for figure in ("recall_at_1", "recall_at_10", "mrr", "median_rank", "cosine", "reverse_mrr"):
        assert by_name[figure].is_significant
        assert by_name[figure].difference.low * by_name[figure].difference.high > 0
    assert by_name["mrr"].difference.value > 0 > by_name["median_rank"].difference.value
    again = compare_results(one, results_of({"good": good}))
    assert {d.difference.value for d in again} == {0.0}
    assert not any(d.is_significant for d in again)
    alike = compare_results(one, results_of({"nearly": nearly}))
    assert sum(d.is_significant for d in alike) <= 1


def test_pairing_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=300)
    draws = Resamples(range(300))
    one, other = hard + 0.1, hard + 0.02 * rng.normal(size=300)
    apart = draws.mean(one), draws.mean(other)
    assert apart[0].low < apart[1].high
    assert np.quantile(draws.means(one) - draws.means(other), 0.001) > 0


def test_differences_by_chance_alone_are_rarely_called_real() -> None:
    # Sides that have nothing to do with each other: no translator is better than another, in
    # twenty-eight comparisons of each figure.
    nothing = Pairs(noise(100, 16, seed=70), noise(100, 12, seed=71))
    translators = {str(seed): fitted(pairs_of(seed=seed)[0]) for seed in range(8)}
    found = compare_results(results_of(translators, pairs=nothing), resamples=2000)
    retrieval = [d for d in found if d.metric in ("recall_at_5", "mrr", "reverse_mrr")]
    assert len(retrieval) == 3 * 28
    assert not any(d.is_significant for d in retrieval)


def test_evaluations_of_other_rows_are_not_compared(tmp_path: Path, run: Run) -> None:
    good = {"good": fitted(pairs_of()[0])}
    results_of(good).write(tmp_path / "a")
    results_of(good, seed=51).write(tmp_path / "b")
    code, _, err = run("evaluate", "--compare", tmp_path / "a", tmp_path / "b")
    assert code == 2
    assert "different rows" in err
    code, _, err = run("evaluate", "--compare", tmp_path / "a")
    assert code == 2
    assert "no two translators" in err
    results_of({"good": good["good"], "lost": fitted(shuffled(pairs_of()[0]))}).write(
        tmp_path / "c"
    )
    code, out, _ = run("evaluate", "--compare", tmp_path / "a", tmp_path / "c" / "results.json")
    assert code == 0
    assert re.search(r"mrr +good - lost .* significant", out)
    assert re.search(r"mrr +good - good \(second\) +\+0 ", out)


def test_a_page_of_results_read_again_holds_the_same_figures(tmp_path: Path) -> None:
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
