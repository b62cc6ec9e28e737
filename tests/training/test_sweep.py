import csv
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.report import SweepResult, TrainingReport
from clip2clap.training.splits import TrainingData, split_pairs, split_together
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.training.sweep.group import Group, Member
from clip2clap.training.sweep.run import SweepProgress, sweep
from clip2clap.training.train import train_translator
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator

CLIP = EmbeddingSpace("clip", "some/clip", "text", 16, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 12, True, "c1a9")
BASE = TrainingConfig.reference(patience=10)
VALUES: dict[str, Any] = {
    "hidden_size": (8, 12),
    "loss": ("cosine", "contrastive"),
    "epochs": (4,),
    "batch_size": (32,),
    "learning_rate": (5e-3,),
}
GRID = SweepGrid(**VALUES)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def sides(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views, bent and noisy, of the same hidden causes."""
    ways = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(n, 8, generator=generator)
    noise = 0.2 * torch.randn(2, n, 16, generator=generator)
    source = torch.tanh(causes @ ways[0] / 2) + noise[0]
    target = (torch.tanh(causes @ ways[1] / 2) + noise[1])[:, :12]
    return unit(source), unit(target)


def write_table(
    folder: Path,
    n: int,
    seed: int = 0,
    *,
    clip: EmbeddingSpace = CLIP,
    files: Sequence[str] | None = None,
) -> Path:
    source, target = sides(n, seed)
    with TableWriter(folder, {"clip_text": clip, "clap_text": CLAP}, dtype="float32") as writer:
        writer.append(
            [f"{folder.name}-{i}" for i in range(n)],
            {"file": list(files or (f"{folder.name}-{i // 2}.wav" for i in range(n)))},
            {"clip_text": source, "clap_text": target},
        )
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("tables")
    return [
        write_table(folder / name, n, seed)
        for seed, (name, n) in enumerate([("captions", 120), ("wit", 70), ("cc", 90)])
    ]


class Whole(NamedTuple):
    folder: Path
    results: list[SweepResult]
    seen: list[SweepProgress]


@pytest.fixture(scope="module")
def whole(tables: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Sweep over three tables, from its start to its end."""
    out, seen = tmp_path_factory.mktemp("whole"), []
    results = sweep(tables[0], out, plus=tables[1:], grid=GRID, base=BASE, on_progress=seen.append)
    return Whole(out, results, seen)


def weights(folder: Path) -> dict[str, Tensor]:
    return dict(AutoTranslator.from_pretrained(folder).state_dict())


def largest_difference(one: Translator, other: Translator) -> float:
    ours = other.state_dict()
    return max((w - ours[name]).abs().max().item() for name, w in one.state_dict().items())


def same(one: Path, other: Path, results: Sequence[SweepResult]) -> None:
    """Both sweeps left the same translators, curves and figures."""
    assert len(results) == 12
    for result in results:
        ours, theirs = weights(one / result.name), weights(other / result.name)
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], rtol=0, atol=1e-6)
        reports = [
            TrainingReport.read(folder / result.name / "training.json") for folder in (one, other)
        ]
        assert reports[0].data == reports[1].data
        assert [r.train_loss for r in reports[0].history] == pytest.approx(
            [r.train_loss for r in reports[1].history], abs=1e-6
        )
    rows = [list(csv.DictReader((folder / "results.csv").open())) for folder in (one, other)]
    for ours, theirs in zip(*rows, strict=True):
        assert ours["name"] == theirs["name"]
        assert float(ours["mrr on captions"]) == pytest.approx(float(theirs["mrr on captions"]))


# Together


@cache
def trained_alone(config: TrainingConfig) -> Translator:
    return train_translator(Pairs(*sides(200)), config)


@pytest.mark.parametrize("batched", [True, False])
def test_training_together_equals_training_each_alone(batched: bool):
    made = Pairs(*sides(200))
    split = split_pairs(made, validation=0.1, seed=0)
    settings = {
        f"{hidden}-{loss}-{mark}": replace(
            BASE, hidden_size=hidden, loss=loss, epochs=4, batch_size=32, **extra
        )
        for hidden in (8, 12)
        for loss in ("cosine", "mse", "contrastive")
        for mark, extra in {
            "plain": {},
            "bridged": {"noise": 0.1, "center": True},
            "fast": {"learning_rate": 1e-2, "schedule": "cosine", "warmup": 0.1},
        }.items()
    }
    members = [Member(name, config.resolved(180)) for name, config in settings.items()]
    group = Group(TrainingData(made, split), members, torch.device("cpu"), batched=batched)
    while not group.is_over:
        group.advance()
    for member in members:
        alone = trained_alone(settings[member.name])
        assert largest_difference(alone, group.translator(member)) < 1e-4
        assert member.progress.best_epoch == alone.config["recipe"]["best_epoch"]
    other = trained_alone(replace(settings["8-mse-plain"], seed=1))
    assert largest_difference(other, group.translator(members[3])) > 1e-2


@pytest.mark.parametrize("batched", [True, False])
def test_each_model_stops_by_itself_and_the_others_go_on_as_if_alone(batched: bool):
    made = Pairs(*sides(120))
    split = split_pairs(made, validation=0.2, seed=0)
    settings = {
        str(seconds): replace(
            BASE,
            hidden_size=8,
            epochs=25,
            batch_size=32,
            loss=loss,
            patience=2,
            learning_rate=1e-2,
            validation=0.2,
        )
        for seconds, loss in enumerate(("cosine", "contrastive", "infonce"))
    }
    members = [Member(name, config.resolved(96)) for name, config in settings.items()]
    group = Group(TrainingData(made, split), members, torch.device("cpu"), batched=batched)
    sizes = []
    while not group.is_over:
        sizes.append(sum(len(stack.members) for stack in group.stacks))
        group.advance()
    lengths = [len(member.progress.history) for member in members]
    assert len(set(lengths)) > 1
    assert sizes == [sum(length > epoch for length in lengths) for epoch in range(max(lengths))]
    for member in members:
        alone = train_translator(made, settings[member.name])
        assert alone.config["recipe"]["epochs"] == len(member.progress.history)
        assert largest_difference(alone, group.translator(member)) < 1e-4


def test_a_model_that_diverges_leaves_the_others_alone(tmp_path: Path):
    grid = SweepGrid(hidden_size=(8,), loss=("mse",), learning_rate=(1e-3, 1e30), epochs=(2,))
    good, bad = sweep(Pairs(*sides(100)), tmp_path, grid=grid)
    assert good.report is not None
    assert bad.report is None
    alone = train_translator(Pairs(*sides(100)), replace(BASE, hidden_size=8, loss="mse", epochs=2))
    own = AutoTranslator.from_pretrained(tmp_path / good.name)
    assert largest_difference(alone, own) < 1e-5
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["status"] for row in rows] == ["done", "diverged"]
    assert "Diverged, try a lower learning rate: " + bad.name in (
        tmp_path / "report.html"
    ).read_text().replace("&#x27;", "'")


def test_a_sweep_of_which_nothing_is_left_ends_with_an_error(tmp_path: Path):
    grid = SweepGrid(hidden_size=8, loss="mse", learning_rate=(1e30, 1e31), epochs=1)
    with pytest.raises(UserError, match="Every model of the sweep diverged") as error:
        sweep(Pairs(*sides(100)), tmp_path, grid=grid)
    assert error.value.param == "learning_rate"
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [row["status"] for row in rows] == ["diverged"] * 2


def test_a_second_sweep_on_a_folder_is_refused_while_the_first_lasts(tmp_path: Path):
    pairs, grid = Pairs(*sides(100)), SweepGrid(hidden_size=8, loss="mse", epochs=1)
    half_written = tmp_path / "pairs1-8-mse" / ".x1y2.part"
    half_written.mkdir(parents=True)

    def start_another(progress: SweepProgress) -> None:
        with pytest.raises(UserError, match="Another run is writing to"):
            sweep(pairs, tmp_path, grid=grid)

    sweep(pairs, tmp_path, grid=grid, on_progress=start_another)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("moved", range(4))
def test_a_sweep_that_is_killed_while_it_publishes_a_model_goes_on(
    tmp_path: Path, in_a_fork: Callable[..., int], moved: int
):
    pairs, grid = Pairs(*sides(100)), SweepGrid(hidden_size=8, loss="mse", epochs=1)
    model, move, left = tmp_path / "pairs1-8-mse", os.replace, [moved]

    def die_in_a_move(source: Path, target: Path) -> None:
        if target.parent == model:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        move(source, target)

    def killed_sweep() -> None:
        os.replace = die_in_a_move
        sweep(pairs, tmp_path, grid=grid, checkpoint_seconds=0)

    assert os.WIFSIGNALED(in_a_fork(killed_sweep))
    (result,) = sweep(pairs, tmp_path, grid=grid)
    assert result.report is not None
    assert AutoTranslator.from_pretrained(model).config["hidden_size"] == 8
    assert not list(tmp_path.rglob(".*"))


# The whole


def test_the_default_grid_is_the_references_18():
    settings = SweepGrid().settings(BASE)
    assert list(settings) == [
        f"{hidden}-{loss}" for hidden in (256, 512) for loss in ("cosine", "mse", "contrastive")
    ]
    for config in settings.values():
        settled = config.resolved(45_000)
        assert (settled.learning_rate, settled.batch_size, settled.epochs) == (1e-3, 64, 50)
        assert (settled.schedule, settled.warmup, settled.noise) == ("constant", 0.0, 0.0)


def test_a_name_says_what_differs_and_a_temperature_only_what_has_one():
    grid = SweepGrid(
        hidden_size=(8,),
        loss=("cosine", "infonce", "cosine:1+bank:0.5"),
        temperature=(0.1, 0.2),
        center=(False, True),
        seed=(3,),
    )
    names = list(grid.settings(BASE))
    assert names == [
        f"8-{loss}{mark}"
        for loss, marks in (
            ("cosine", [""]),
            ("infonce", ["-temperature0.1", "-temperature0.2"]),
            ("cosine1+bank0.5", ["-temperature0.1", "-temperature0.2"]),
        )
        for temperature in marks
        for mark in (temperature, f"{temperature}-centered")
    ]


def test_a_sweep_leaves_a_folder_a_translator_a_table_and_a_page(whole: Whole):
    out, results, seen = whole
    names = [
        f"{data}-{hidden}-{loss}"
        for data in ("captions", "wit+cc", "all")
        for hidden in (8, 12)
        for loss in ("cosine", "contrastive")
    ]
    assert [result.name for result in results] == names
    assert sorted(p.name for p in out.iterdir()) == sorted([*names, "report.html", "results.csv"])
    shares = [progress.done for progress in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    rows = {row["name"]: row for row in csv.DictReader((out / "results.csv").open())}
    page = (out / "report.html").read_text()
    for result in results:
        translator = AutoTranslator.from_pretrained(out / result.name)
        assert result.report is not None
        assert (translator.source_space, translator.target_space) == (CLIP, CLAP)
        assert translator.config["hidden_size"] == int(result.name.split("-")[1])
        assert float(rows[result.name]["mrr"]) == translator.config["metrics"]["mrr"]
        assert set(result.held_out) == {"captions", "wit", "cc"}
        assert f">{result.name}<" in page
    first = results[0].report
    assert first is not None
    assert results[0].held_out["captions"] == first.metrics
    assert not re.search(r'(src|href)="(?!data:)', page)
    sizes = {row["data"]: int(row["train_pairs"]) for row in rows.values()}
    assert sizes["all"] == sizes["captions"] + sizes["wit+cc"]
    assert sizes["captions"] == 108


def test_the_other_direction(tables: list[Path], tmp_path: Path):
    grid = SweepGrid(hidden_size=(8,), loss=("cosine",), epochs=(2,))
    base = replace(BASE, source="clap", target="clip")
    sweep(tables[0], tmp_path / "out", grid=grid, base=base)
    translator = AutoTranslator.from_pretrained(tmp_path / "out" / "captions-8-cosine")
    assert (translator.source_space, translator.target_space) == (CLAP, CLIP)


def test_an_item_that_one_table_holds_out_is_trained_on_in_none():
    files = [f"{i // 2}.wav" for i in range(100)]
    parts = [Pairs(*sides(100, seed), items=files) for seed in (0, 1)]
    parts.append(Pairs(*sides(40, 2), items=files[:40], splits=["test"] * 4 + ["train"] * 36))
    splits = split_together(parts, validation=0.2, seed=0)
    held_out = {
        files[row] for split in splits for row in (*split.validation.tolist(), *split.test.tolist())
    }
    trained_on = {files[row] for split in splits for row in split.train.tolist()}
    assert held_out
    assert trained_on
    assert not held_out & trained_on


# Stopped, spread, repeated


def sweep_until(tables: list[Path], out: Path, death: float) -> None:
    """Sweep in this process, and kill it when more than this share is done."""

    def die(progress: SweepProgress) -> None:
        if progress.done > death:
            os.kill(os.getpid(), signal.SIGKILL)

    AcceleratorState._reset_state(reset_partial_state=True)
    first, *plus = tables
    options: dict[str, Any] = {"checkpoint_seconds": 0, "device": "cpu", "on_progress": die}
    sweep(first, out, plus=plus, grid=GRID, base=BASE, **options)


def sweep_as(rank: int, port: int, tables: list[Path], out: Path) -> None:
    """Sweep in this process, one of the two that `accelerate launch --cpu` starts."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sweep_until(tables, out, 2)
    assert AcceleratorState().num_processes == 2


def test_a_killed_sweep_goes_on_and_one_on_two_processes_ends_alike(
    whole: Whole, tables: list[Path], tmp_path: Path, start_fork: Callable[..., int]
):
    killed, spread = tmp_path / "killed", tmp_path / "spread"
    _, died = os.waitpid(start_fork(sweep_until, tables, killed, 0.9), 0)
    assert os.WIFSIGNALED(died)
    finished = [path.parent.name for path in killed.glob("*/training.json")]
    assert 0 < len(finished) < 12
    assert len(list((killed / "unfinished").iterdir())) == 1
    before = {name: (killed / name / "config.json").stat().st_mtime_ns for name in finished}
    sweep(tables[0], killed, plus=tables[1:], grid=GRID, base=BASE)
    assert not (killed / "unfinished").exists()
    for name, changed in before.items():
        assert (killed / name / "config.json").stat().st_mtime_ns == changed
    resumed = [TrainingReport.read(path).resumed_after for path in killed.glob("*/training.json")]
    assert max(after or 0 for after in resumed) > 0
    same(whole.folder, killed, whole.results)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start_fork(sweep_as, rank, port, tables, spread) for rank in (0, 1)]
    assert [os.waitpid(child, 0)[1] for child in both] == [0, 0]
    same(whole.folder, spread, whole.results)


def test_a_finished_sweep_is_not_repeated_and_a_larger_grid_trains_only_what_is_new(
    tables: list[Path], tmp_path: Path
):
    small = SweepGrid(**VALUES | {"hidden_size": (8,)})
    sweep(tables[0], tmp_path / "out", grid=small, base=BASE)
    before = {
        path.parent.name: path.stat().st_mtime_ns
        for path in (tmp_path / "out").glob("*/training.json")
    }
    assert len(before) == 2
    seen: list[SweepProgress] = []
    results = sweep(tables[0], tmp_path / "out", grid=GRID, base=BASE, on_progress=seen.append)
    assert {progress.models for progress in seen} == {2}
    assert len(results) == 4
    for name, changed in before.items():
        assert (tmp_path / "out" / name / "training.json").stat().st_mtime_ns == changed
    with pytest.raises(UserError, match="epochs 4 in place of 5"):
        sweep(tables[0], tmp_path / "out", grid=SweepGrid(**VALUES | {"epochs": (5,)}), base=BASE)


# Refused before anything is trained


def refused(message: str, tmp_path: Path, *tables: Path | Pairs, error: type = UserError) -> None:
    def never(_: SweepProgress) -> None:
        raise AssertionError

    first, *plus = tables
    with pytest.raises(error, match=message):
        sweep(first, tmp_path / "out", plus=plus, grid=GRID, on_progress=never)
    assert not (tmp_path / "out").exists()


def test_vectors_that_are_no_vectors_are_refused(tables: list[Path], tmp_path: Path):
    source, target = sides(20)
    for bad in (0.0, float("nan"), float("inf")):
        spoilt = source.index_fill(0, torch.tensor(7), bad)
        message = r"1 of 20 source rows are zero or not finite \(the first is row 7\)"
        with pytest.raises(UserError, match=message):
            Pairs(spoilt, target)
    for column, name in enumerate(("clip_text", "clap_text")):
        # What our writer refuses, others may have written.
        folder = write_table(tmp_path / f"table{column}", 30)
        spoil(folder, sides(30)[column][11])
        refused(r"1 of 30 (source|target) rows.*row 11", tmp_path, tables[0], folder)
        refused(r"1 of 30 (source|target) rows.*row 11", tmp_path, folder)
        assert name in ("clip_text", "clap_text")


def spoil(folder: Path, vector: Tensor) -> None:
    """Put zeros in the place of a vector, in a table without checksums as older versions wrote."""
    (file,) = folder.glob("data-*.arrow")
    state = json.loads((folder / "state.json").read_text())
    state["clip2clap"].pop("checksums")
    (folder / "state.json").write_text(json.dumps(state))
    content, old = file.read_bytes(), vector.numpy().tobytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, bytes(len(old))))


def test_tables_that_do_not_go_together_are_refused(tables: list[Path], tmp_path: Path):
    other = write_table(tmp_path / "other", 30, clip=replace(CLIP, fingerprint="0ther"))
    refused("The tables' sources: expected", tmp_path, tables[0], other, error=SpaceMismatchError)
    source, target = sides(30)
    narrow = Pairs(unit(source[:, :8]), target)
    refused("have 16 and 8 values", tmp_path, Pairs(source, target), narrow)
    with pytest.raises(UserError, match="29 source and 30 target"):
        Pairs(source[:29], target)
    one = write_table(tmp_path / "one", 1)
    refused("1 pairs can't be split", tmp_path, one)
    refused("1 pairs can't be split", tmp_path, tables[0], one)


def test_grids_that_make_no_sense_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="at least one value of hidden_size"):
        SweepGrid(hidden_size=())
    with pytest.raises(UserError, match="of loss is given twice"):
        SweepGrid(loss=("mse", "mse"))
    with pytest.raises(UserError, match="fields of TrainingConfig, got 'hidden'"):
        SweepGrid(hidden=(8,))
    made = Pairs(*sides(30))
    with pytest.raises(UserError, match="got 'hinge'"):
        sweep(made, tmp_path, grid=SweepGrid(loss=("hinge",)))
    with pytest.raises(UserError, match="'paper' isn't installed"):
        sweep(made, tmp_path, trackers=["paper"])
    with pytest.raises(UserError, match="trains mlps"):
        sweep(made, tmp_path, base=TrainingConfig(architecture="ridge"))


def test_a_tracker_gets_every_models_curves(tables: list[Path], tmp_path: Path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    grid = SweepGrid(**VALUES | {"hidden_size": (8,), "loss": ("cosine", "mse")})
    results = sweep(tables[0], tmp_path / "out", grid=grid, base=BASE, trackers=["tensorboard"])
    events = reading.EventAccumulator(str(tmp_path / "out" / "tracking" / "out"))
    events.Reload()
    for result in results:
        assert result.report is not None
        for figure in ("mrr", "recall_at_10"):
            logged = events.Scalars(f"{result.name}/{figure}")
            assert [(point.step, pytest.approx(point.value)) for point in logged] == [
                (record.epoch, record.validation[figure]) for record in result.report.history
            ]
