import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.training.batches import Batches, generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, join_pairs, read_pairs
from clip2clap.training.report import TrainingProgress, TrainingReport
from clip2clap.training.splits import split_pairs, thin_out
from clip2clap.training.train import train, train_translator
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator

CLIP = EmbeddingSpace("clip", "some/clip", "text", 16, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 12, True, "c1a9")
QUICK = TrainingConfig.reference(hidden_size=32, epochs=6, batch_size=16, learning_rate=5e-3)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def learnable(n: int = 300, *, shuffled: bool = False, items: Sequence[str] | None = None) -> Pairs:
    """Two views, bent and noisy, of the same hidden causes; shuffled, of each other's."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(n, 8, generator=generator)
    ways = torch.randn(2, 8, 16, generator=generator)
    noise = 0.2 * torch.randn(2, n, 16, generator=generator)
    source = unit(torch.tanh(causes @ ways[0] / 2) + noise[0])
    target = unit(torch.tanh(causes @ ways[1] / 2) + noise[1])[:, :12]
    if shuffled:
        target = target[torch.randperm(n, generator=generator)]
    return Pairs(unit(source), unit(target), items=items, source_space=CLIP, target_space=CLAP)


def weights(translator: Translator) -> dict[str, Tensor]:
    return dict(translator.state_dict())


def equal(one: Translator, other: Translator) -> bool:
    return all(torch.equal(w, weights(other)[name]) for name, w in weights(one).items())


@pytest.fixture
def table(tmp_path: Path) -> Path:
    folder = tmp_path / "table"
    made = learnable(100)
    with TableWriter(folder, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
        writer.append(
            [f"row{i}" for i in range(100)],
            {
                "caption": [f"caption {i}" for i in range(100)],
                "file": [f"{i // 5}.wav" for i in range(100)],
            },
            {"clip_text": made.source, "clap_text": made.target},
        )
    return folder


# Learning


@pytest.mark.parametrize("model", ["mlp", "residual", "ridge", "procrustes"])
def test_a_translator_beats_chance_and_the_mean_and_one_of_shuffled_pairs_does_not(model):
    config = replace(QUICK, architecture=model, validation=0.3)
    real = train_translator(learnable(), config).config["metrics"]
    assert real["gallery"] == 90
    assert real["recall_at_1"] > 10 * real["shuffled_pairs"]["recall_at_1"]
    assert real["mrr"] > 0.3
    for control in ("shuffled_pairs", "mean_vector"):
        # Of 90 vectors in random order the mean reciprocal rank is 0.056.
        assert real[control]["mrr"] == pytest.approx(0.056, abs=0.035)
    assert real["cosine"] > real["mean_vector"]["cosine"] + 0.2

    control = train_translator(learnable(shuffled=True), config).config["metrics"]
    assert control["mrr"] == pytest.approx(0.056, abs=0.035)
    assert control["recall_at_1"] <= 0.05


@pytest.mark.parametrize("loss", ["cosine", "mse", "contrastive", "infonce"])
def test_every_loss_falls_on_both_sides_of_the_split(loss, tmp_path: Path):
    report = train(learnable(), tmp_path, replace(QUICK, loss=loss))
    first, last = report.history[0], report.history[-1]
    assert last.train_loss < first.train_loss
    assert last.validation_loss < first.validation_loss
    assert report.metrics["mrr"] > 3 * report.shuffled_pairs["mrr"]


def references_weights(made: Pairs, loss: str, epochs: int) -> list[dict[str, Tensor]]:
    """The reference's training, in plain torch: the weights after every epoch."""
    start = MLPTranslator(16, 12, hidden_size=8)
    start.initialize(torch.Generator().manual_seed(0))
    layers = nn.Sequential(
        nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 12)
    )
    layers.load_state_dict(start.layers.state_dict())
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    rows = split_pairs(made, validation=0.1, seed=0).train
    after = []
    for epoch in range(1, epochs + 1):
        for places in torch.randperm(len(rows), generator=generator_for("order", 0, epoch)).split(
            64
        ):
            x, y = unit(made.source[rows[places]]), unit(made.target[rows[places]])
            out = unit(layers(x))
            optimizer.zero_grad()
            if loss == "cosine":
                value = (1 - (out * y).sum(-1)).mean()
            elif loss == "mse":
                value = ((out - y) ** 2).mean()
            else:
                z = torch.cat([out, y])
                n = len(out)
                e = torch.exp(z @ z.T / 0.5) * (1 - torch.eye(2 * n))
                positive = torch.exp((out * y).sum(-1) / 0.5).repeat(2)
                value = -(positive / e.sum(1)).log().mean()
            value.backward()
            optimizer.step()
        after.append({f"layers.{k}": v.clone() for k, v in layers.state_dict().items()})
    return after


@pytest.mark.parametrize("loss", ["cosine", "mse", "contrastive"])
def test_the_references_options_give_the_references_weights(loss: str, tmp_path: Path):
    made = learnable(200)
    config = TrainingConfig.reference(hidden_size=8, epochs=3, loss=loss, monitor="cosine")
    report = train(made, tmp_path, config)
    assert report.pairs["train"] % 64 != 0
    assert (config.epochs, report.best_epoch) == (3, 3)
    after = references_weights(made, loss, 3)
    trained = weights(AutoTranslator.from_pretrained(tmp_path))
    for name, weight in trained.items():
        torch.testing.assert_close(weight, after[-1][name], rtol=1e-5, atol=1e-5)
        # The comparison would notice a single epoch more or less.
        assert not torch.allclose(weight, after[-2][name], rtol=1e-5, atol=1e-5)


def test_the_reference_recipe_is_the_references():
    config = TrainingConfig.reference().resolved(45_000)
    assert (config.epochs, config.batch_size, config.learning_rate) == (50, 64, 1e-3)
    assert (config.schedule, config.warmup, config.patience) == ("constant", 0.0, None)
    assert (config.noise, config.center, config.precision) == (0.0, False, "fp32")


def test_a_learnt_temperature_ends_up_in_the_recipe():
    config = replace(QUICK, loss="infonce", learn_temperature=True)
    learnt = train_translator(learnable(), config).config["recipe"]["temperature"]
    assert learnt != pytest.approx(0.07, rel=0.01)
    fixed = train_translator(learnable(), replace(QUICK, loss="contrastive"))
    assert fixed.config["recipe"]["temperature"] == 0.5


def test_the_seed_decides_everything():
    first, second = (train_translator(learnable(), QUICK) for _ in range(2))
    assert equal(first, second)
    assert not equal(first, train_translator(learnable(), replace(QUICK, seed=1)))


@pytest.mark.parametrize("model", ["mlp", "residual"])
def test_the_global_generator_has_no_influence(model):
    config = replace(QUICK, architecture=model, dropout=0.5)
    with torch.random.fork_rng():
        first = train_translator(learnable(), config)
        torch.manual_seed(5)
        assert equal(first, train_translator(learnable(), config))


def test_a_residual_run_that_was_stopped_ends_with_the_weights_it_would_have_had(tmp_path: Path):
    def stop(progress: TrainingProgress) -> None:
        if progress.epoch == 3:
            raise KeyboardInterrupt

    config = replace(QUICK, architecture="residual", blocks=2)
    with pytest.raises(KeyboardInterrupt):
        train(learnable(), tmp_path, config, checkpoint_seconds=0, on_progress=stop)
    assert train(learnable(), tmp_path, config).resumed_after == 2
    whole = train_translator(learnable(), config)
    assert equal(AutoTranslator.from_pretrained(tmp_path), whole)
    assert whole.config["recipe"]["method"] == "residual"
    assert not equal(whole, train_translator(learnable(), replace(config, dropout=0.0)))


def test_half_precision_tables_train_almost_alike():
    made = learnable()
    half = replace(made, source=made.source.half(), target=made.target.half())
    full_mrr, half_mrr = (
        train_translator(each, QUICK).config["metrics"]["mrr"] for each in (made, half)
    )
    assert half_mrr == pytest.approx(full_mrr, abs=0.1)


def test_patience_ends_a_run_that_no_longer_gets_better_and_the_best_epoch_is_kept(tmp_path: Path):
    config = replace(QUICK, epochs=60, patience=3, hidden_size=64)
    report = train(learnable(shuffled=True), tmp_path, config)
    assert report.stopped_early
    assert report.best_epoch is not None
    assert report.epochs_run == report.best_epoch + 3 < 60
    scores = [record.validation["mrr"] for record in report.history]
    assert scores[report.best_epoch - 1] == max(scores) == report.metrics["mrr"]


def test_ridge_tries_penalties_and_keeps_the_best_on_held_out_pairs():
    made = learnable(60)
    chosen = train_translator(made, TrainingConfig(architecture="ridge", validation=0.5))
    mrrs = {
        alpha: train_translator(
            made, TrainingConfig(architecture="ridge", validation=0.5, alpha=alpha)
        ).config["metrics"]["mrr"]
        for alpha in (0.01, 0.1, 1.0, 10.0, 100.0)
    }
    assert isinstance(chosen, LinearTranslator)
    assert mrrs[chosen.config["recipe"]["alpha"]] == max(mrrs.values())
    assert chosen.config["metrics"]["mrr"] == max(mrrs.values())


def test_divergence_is_reported_in_one_line():
    with pytest.raises(UserError, match=r"diverged in epoch 1.*learning rate below 1e\+30"):
        train_translator(learnable(), replace(QUICK, learning_rate=1e30, loss="mse"))


def test_centring_is_kept_in_the_translator_and_can_be_moved_to_another_modality(tmp_path: Path):
    made = learnable()
    away = unit(torch.randn(16, generator=torch.Generator().manual_seed(3)))
    seen = unit(made.source + away)
    shifted = replace(made, source=seen)
    train(shifted, tmp_path, replace(QUICK, center=True))
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert loaded.source_mean is not None
    rows = split_pairs(shifted, validation=0.1, seed=0).train
    torch.testing.assert_close(loaded.source_mean, seen[rows].mean(0))
    assert loaded.config["recipe"]["center"]
    # The other modality: the same things, with the gap on the other side.
    other = unit(made.source - away)

    def cosine(source: Tensor) -> float:
        with torch.no_grad():
            return (loaded(source) * made.target).sum(-1).mean().item()

    before = cosine(other)
    loaded.center(other.mean(0))
    assert cosine(other) > before + 0.1
    with pytest.raises(UserError, match=r"source mean of shape \(16,\), got \(3,\)"):
        loaded.center(torch.zeros(3))
    with pytest.raises(UserError, match="keeps no means"):
        MLPTranslator(16, 12, hidden_size=8).center(torch.zeros(16))


def test_captions_are_trained_with_noise_so_that_pictures_can_take_their_place():
    text = EmbeddingSpace("clip", "a", "text", 8, True, "none")
    noises = [
        config.resolved(100, space).noise
        for config in (TrainingConfig(), TrainingConfig(noise=0.0), TrainingConfig.reference())
        for space in (text, replace(text, modality="image"))
    ]
    assert noises == [0.05, 0.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_perceptron_starts_as_ridge_and_goes_on_from_there(noise: float, centre: bool):
    made = learnable(600)
    standing = TrainingConfig(noise=noise, center=centre, epochs=1, learning_rate=1e-12)
    first = train_translator(made, standing)
    ridge = train_translator(made, TrainingConfig(architecture="ridge", noise=noise))
    assert first.config["recipe"]["init"] == "ridge"
    if not centre:
        torch.testing.assert_close(first(made.source), ridge(made.source), rtol=0, atol=1e-4)
    # Centred vectors are scaled to unit norm again, so that is another linear map, as good a one.
    scores = [one.config["metrics"]["mrr"] for one in (first, ridge)]
    assert scores[0] == pytest.approx(scores[1], rel=0.1)
    random = train_translator(made, replace(standing, init="random"))
    assert random.config["metrics"]["mrr"] < scores[0] / 2
    learnt = train_translator(
        made, replace(standing, learning_rate=None, epochs=30, monitor="cosine")
    )
    assert learnt.config["metrics"]["cosine"] > first.config["metrics"]["cosine"] + 0.003


def test_what_starts_as_ridge_is_a_perceptron_of_its_own():
    assert TrainingConfig().resolved(100).init == "ridge"
    for other in (
        TrainingConfig(architecture="residual"),
        TrainingConfig(init_from="somewhere"),
        TrainingConfig(hidden_size=1),
        TrainingConfig.reference(),
    ):
        assert other.resolved(100).init == "random"
    refused: list[dict[str, Any]] = [
        {"architecture": "prior"},
        {"init_from": "somewhere"},
        {"hidden_size": 1},
    ]
    for options in refused:
        with pytest.raises(UserError, match="Only an mlp"):
            TrainingConfig(init="ridge", **options)


def test_noise_in_training_makes_a_translator_steadier_under_noise():
    made = learnable(600)
    config = replace(QUICK, epochs=20, learning_rate=2e-3)
    plain = train_translator(made, config)
    noisy = train_translator(made, replace(config, noise=0.2))
    assert noisy.config["recipe"]["noise"] == 0.2
    disturbed = unit(
        made.source + 0.2 * torch.randn(600, 16, generator=torch.Generator().manual_seed(1))
    )
    with torch.no_grad():
        cosines = [(t(disturbed) * made.target).sum(-1).mean().item() for t in (plain, noisy)]
    assert cosines[1] > cosines[0] + 0.01


def test_tuning_goes_on_from_a_translator_at_a_tenth_of_the_rate(tmp_path: Path):
    made = learnable()
    train(made, tmp_path / "captions", QUICK)
    start = AutoTranslator.from_pretrained(tmp_path / "captions")
    few = replace(made, source=made.source[:40], target=made.target[:40])
    config = TrainingConfig(init_from=str(tmp_path / "captions"), epochs=1, validation=0.5)
    assert config.resolved(40).learning_rate == pytest.approx(1.5e-4)
    tuned = train_translator(few, config)
    assert tuned.config["hidden_size"] == 32
    assert tuned.config["recipe"]["init_from"] == str(tmp_path / "captions")
    changes = [
        (weight - weights(start)[name]).abs().max() for name, weight in weights(tuned).items()
    ]
    assert 0 < max(changes) < 1e-3
    with pytest.raises(UserError, match="expected embeddings of"):
        train_translator(replace(few, source_space=replace(CLIP, fingerprint="0ther")), config)


def test_large_tables_are_trained_on_block_by_block():
    made, rows = learnable(300), torch.arange(3, 290)
    small: dict[str, int] = {"max_held_bytes": 0, "block_rows": 16, "window_blocks": 3}
    blocks = Batches(made, rows, batch_size=20, seed=0, device=torch.device("cpu"), **small)
    for epoch in (1, 2):
        given = list(blocks.epoch(epoch))
        assert [len(source) for source, _ in given] == [20] * 14 + [7]
        assert len(given) == blocks.steps
        seen = torch.cat([source for source, _ in given])
        places = (seen @ unit(made.source).T).argmax(1)
        assert sorted(places.tolist()) == rows.tolist()
        assert places.tolist() != rows.tolist()
        torch.testing.assert_close(torch.cat([target for _, target in given]), made.target[places])
    torch.testing.assert_close(blocks.means()[1], made.target[rows].mean(0))
    again = torch.cat([source for source, _ in blocks.epoch(2)])
    assert torch.equal(again, seen)
    assert not torch.equal(again, torch.cat([source for source, _ in blocks.epoch(1)]))


def test_a_table_stays_on_disk_and_trains_like_tensors_in_memory(table: Path):
    made, opened = read_pairs(table, QUICK), EmbeddingTable.open(table)
    whole = {name: opened.tensor(name) for name in ("clip_text", "clap_text")}
    assert not isinstance(made.source, Tensor)
    in_memory = replace(made, source=whole["clip_text"], target=whole["clap_text"])
    assert equal(train_translator(made, QUICK), train_translator(in_memory, QUICK))
    joined = join_pairs([made, in_memory])
    rows = torch.tensor([0, 5, 99, 100, 150, 199])
    assert torch.equal(joined.target[rows], torch.cat([whole["clap_text"]] * 2)[rows])


def test_importing_training_brings_along_no_models_and_nothing_to_draw_with():
    code = (
        "import sys; import clip2clap.training.train, clip2clap.training.sweep.run\n"
        "heavy = {'transformers', 'diffusers', 'datasets', 'matplotlib', 'scipy', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The split


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


# From a table


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


# The folder


def test_the_folder_holds_the_translator_its_facts_and_nothing_else(table: Path, tmp_path: Path):
    report = train(table, tmp_path / "out", QUICK)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
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
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint.safetensors"]
    report = train(learnable(), tmp_path / "killed", config)
    assert report.resumed_after == 3
    assert report.history == expected.history
    one, other = (AutoTranslator.from_pretrained(tmp_path / name) for name in ("whole", "killed"))
    assert equal(one, other)
    assert not (tmp_path / "killed" / "checkpoint.safetensors").exists()


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "tree"}, "mlp, residual, prior, ridge, procrustes, got 'tree'"),
        ({"loss": "l1"}, "got 'l1'"),
        ({"monitor": "loss"}, "mrr"),
        ({"epochs": 0}, "epochs to be a positive whole number"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"patience": 0}, "patience"),
        ({"learning_rate": float("nan")}, "learning_rate to be a positive"),
        ({"alpha": -1.0}, "alpha"),
        ({"validation": 1.0}, "between 0 and 1"),
        ({"seed": -1}, "seed"),
        ({"temperature": 0.5}, "no temperature"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        TrainingConfig(**settings)


def test_pairs_that_make_no_sense_are_refused():
    made = learnable(10)
    with pytest.raises(UserError, match="9 source and 10 target"):
        Pairs(made.source[:9], made.target)
    with pytest.raises(UserError, match="one of items for each of 10 rows, got 3"):
        Pairs(made.source, made.target, items=["a", "b", "c"])
    with pytest.raises(UserError, match="1 of 10 target rows are zero or not finite"):
        Pairs(made.source, made.target.index_fill(0, torch.tensor(4), 0))


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="Expected a device"):
        train_translator(learnable(), QUICK, device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="Asked to train on cuda"):
            train_translator(learnable(), QUICK, device="cuda")
