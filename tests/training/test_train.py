import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clip2clap.core.errors import UserError
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.report import TrainingProgress, TrainingReport
from clip2clap.training.train import train, train_translator
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.unpaired import fit_unpaired

from .builders import CLAP, CLIP, QUICK, equal, learnable, weights


def test_the_folder_holds_the_translator_its_facts_and_nothing_else(table: Path, tmp_path: Path):
    report = train(table, tmp_path / "out", QUICK)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "training.json",
    ]
    loaded = AutoTranslator.from_pretrained(tmp_path / "out")
    assert equal(loaded, train_translator(table, QUICK))
    assert (loaded.source_space, loaded.target_space) == (CLIP, CLAP)
    recipe = loaded.config["recipe"]
    assert (recipe["loss"], recipe["learning_rate"], recipe["pairs"]) == ("cosine", 5e-3, 90)
    assert loaded.config["hidden_size"] == 32
    assert report.metrics.items() <= loaded.config["metrics"].items()
    assert TrainingReport.read(tmp_path / "out" / "training.json") == report
    assert report.pairs == {"train": 90, "validation": 10, "test": 0}
    assert report.epochs_run == len(report.history) == 6


def test_a_finished_run_is_not_repeated(tmp_path: Path):
    first = train(learnable(), tmp_path, QUICK)

    def refuse(_: TrainingProgress) -> None:
        raise AssertionError

    assert train(learnable(), tmp_path, QUICK, on_progress=refuse) == first


def test_other_settings_or_pairs_do_not_overwrite_unless_asked_to(tmp_path: Path):
    train(learnable(), tmp_path, QUICK)
    other = replace(QUICK, hidden_size=16)
    with pytest.raises(UserError, match="hidden_size 32 in place of 16"):
        train(learnable(), tmp_path, other)
    with pytest.raises(UserError, match="other pairs"):
        train(learnable(200), tmp_path, QUICK)
    train(learnable(), tmp_path, other, overwrite=True)
    assert AutoTranslator.from_pretrained(tmp_path).config["hidden_size"] == 16


def test_a_config_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json of something else"):
        train(learnable(), tmp_path, QUICK)
    assert (tmp_path / "config.json").read_text() == "{}"
    with pytest.raises(UserError, match="is a file"):
        train(learnable(), tmp_path / "config.json", QUICK)


def test_a_run_killed_in_mid_epoch_ends_with_the_weights_it_would_have_had(
    tmp_path: Path, in_a_fork: Callable[..., int]
):
    config = replace(QUICK, loss="infonce", learn_temperature=True, epochs=15, patience=6)
    expected = train(learnable(), tmp_path / "whole", config)

    def die(progress: TrainingProgress) -> None:
        if (progress.epoch, progress.step) == (4, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    run = partial(train, learnable(), tmp_path / "killed", config, checkpoint_seconds=0)
    assert os.WIFSIGNALED(in_a_fork(partial(run, on_progress=die)))
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert left - {".lock"} == {"checkpoint.safetensors"}
    report = train(learnable(), tmp_path / "killed", config)
    assert report.resumed_after == 3
    assert report.history == expected.history
    one, other = (AutoTranslator.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    assert equal(one, other)
    assert set(os.listdir(tmp_path / "killed")) == set(os.listdir(tmp_path / "whole"))


def test_an_unfinished_run_is_not_taken_up_with_other_settings(tmp_path: Path):
    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(learnable(), tmp_path, QUICK, checkpoint_seconds=0, on_progress=stop)
    with pytest.raises(UserError, match=r"unfinished run with learning_rate 0\.005 in place of 1"):
        train(learnable(), tmp_path, replace(QUICK, learning_rate=1.0))
    state = load_file(tmp_path / "checkpoint.safetensors")
    save_file(state, tmp_path / "checkpoint.safetensors")
    with pytest.raises(UserError, match="unfinished run"):
        train(learnable(), tmp_path, QUICK)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="can't be read"):
        train(learnable(), tmp_path, QUICK)
    assert train(learnable(), tmp_path, QUICK, overwrite=True).resumed_after is None


def test_progress_covers_every_step_with_the_last_and_the_best_epoch():
    seen: list[TrainingProgress] = []
    train_translator(learnable(), replace(QUICK, epochs=2), on_progress=seen.append)
    assert [(p.epoch, p.step) for p in seen] == [(e, s) for e in (1, 2) for s in range(1, 18)]
    assert {(p.epochs, p.steps) for p in seen} == {(2, 17)}
    assert seen[0].last is seen[0].best is None
    assert seen[-1].last is not None
    assert seen[-1].last.epoch == 1


def test_the_report_is_plain_json(tmp_path: Path):
    report = train(learnable(), tmp_path, replace(QUICK, architecture="procrustes"))
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.history == []
    assert report.best is None


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="Expected a device"):
        train_translator(learnable(), QUICK, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Asked to train on cuda"):
            train_translator(learnable(), QUICK, device="cuda")


def test_a_second_run_on_a_folder_is_refused_while_the_first_lasts(tmp_path: Path):
    out = tmp_path / "out"

    def start_another(progress: TrainingProgress) -> None:
        with pytest.raises(UserError, match="Another run is writing to") as error:
            train(learnable(), out, QUICK)
        assert error.value.param == "output"

    first = train(learnable(), out, QUICK, on_progress=start_another)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "training.json"]
    )
    assert train(learnable(), out, QUICK) == first


def test_what_a_killed_run_left_half_written_vanishes(tmp_path: Path):
    out = tmp_path / "out"
    (out / ".x1y2.part").mkdir(parents=True)
    (out / ".x1y2.part" / "config.json").write_text("{")
    (out / ".checkpoint.safetensors.7-8.part").write_bytes(b"half")
    (out / "mine.part").write_text("a file of the user's")
    train(learnable(), out, TrainingConfig(architecture="ridge"))
    assert not list(out.glob(".*"))
    assert (out / "mine.part").exists()


def test_an_unpaired_fit_sees_no_item_on_both_sides(monkeypatch: pytest.MonkeyPatch):
    seen: list[torch.Tensor] = []

    def remember(source: torch.Tensor, target: torch.Tensor, **options: Any) -> LinearTranslator:
        seen.extend((source, target))
        return fit_unpaired(source, target, **options, runs=1, iterations=1)

    monkeypatch.setattr("clip2clap.training.networks.fit_unpaired", remember)
    numbers = torch.arange(500.0)
    # Rows name themselves, and an item has two.
    vectors = torch.stack([numbers + 1, torch.ones(500), torch.randn(500)], dim=1)
    items = [str(int(number) // 2) for number in numbers]
    pairs = Pairs(vectors, vectors.clone(), items)
    report = train_translator(pairs, TrainingConfig(architecture="unpaired")).provenance
    source, target = ({int(row - 1) // 2 for row in side[:, 0]} for side in seen)
    assert not source & target
    assert (report.recipe or {})["pairs"] == len(seen[0]) + len(seen[1])


@pytest.mark.parametrize("architecture", ["mlp", "residual", "prior", "ridge", "procrustes"])
def test_the_default_dtype_changes_no_translator(architecture: Any):
    config = TrainingConfig(
        architecture=architecture, hidden_size=8, epochs=1, noise=0.1, center=True, dropout=0.1
    )
    pairs = learnable(60)
    expected = train_translator(pairs, config)
    torch.set_default_dtype(torch.float64)
    try:
        found = train_translator(pairs, config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    for name, weight in weights(found).items():
        torch.testing.assert_close(weight, weights(expected)[name])
