from dataclasses import replace
from typing import Any

import pytest

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "tree"}, "ridge, procrustes, unpaired, got 'tree'"),
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
        ({"rank": 0, "architecture": "ridge"}, "rank to be a positive whole number"),
        ({"rank": 8}, "ridge and procrustes only"),
        ({"architecture": "unpaired", "center": False}, "always subtracts the means"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict, message: str):
    with pytest.raises(UserError, match=message):
        TrainingConfig(**settings)


def test_the_reference_recipe_is_the_references():
    config = TrainingConfig.reference().resolved(45_000)
    assert (config.epochs, config.batch_size, config.learning_rate) == (50, 64, 1e-3)
    assert (config.schedule, config.warmup, config.patience) == ("constant", 0.0, None)
    assert (config.noise, config.center, config.precision) == (0.0, False, "fp32")


def test_captions_are_trained_with_noise_so_that_images_can_take_their_place():
    text = EmbeddingSpace("clip", "a", "text", 8, True, "none")
    noises = [
        config.resolved(100, space).noise
        for config in (TrainingConfig(), TrainingConfig(noise=0.0), TrainingConfig.reference())
        for space in (text, replace(text, modality="image"))
    ]
    assert noises == [0.05, 0.0, 0.0, 0.0, 0.0, 0.0]


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
