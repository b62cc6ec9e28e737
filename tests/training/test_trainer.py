import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from clip2clap.core.errors import UserError
from clip2clap.training.batches import generator_for
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.report import TrainingProgress
from clip2clap.training.splits import split_pairs
from clip2clap.training.train import train, train_translator
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator

from .builders import CLIP, QUICK, equal, learnable, unit, weights


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


def test_importing_training_brings_along_no_models_and_nothing_to_draw_with():
    code = (
        "import sys; import clip2clap.training.train, clip2clap.training.sweep.run\n"
        "heavy = {'transformers', 'diffusers', 'datasets', 'matplotlib', 'scipy', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
