"""Tuning of the demo CLIP's image encoder, on small random networks."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from clip2clap.training.recipes.demo import spaces, vision
from clip2clap.training.recipes.demo.loop import Schedule, Stage
from clip2clap.training.recipes.demo.pretrained import TAIL_BLOCKS, Trunk
from clip2clap.training.recipes.demo.words import INNER_NAMES

from .networks import random_efficientnet

SMALL, OTHERS, WINDOWS = 12, 2, 2
DATA: Any = SimpleNamespace(
    classes=["dog", "sea"],
    class_names=["dog", "sea"],
    imagenet_names=[f"class {n}" for n in range(1000)],
)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(vision, "BATCHES", (12, 4, 4, 4))


@pytest.fixture
def encoder():
    network, _ = random_efficientnet(32)
    return vision.ImageEncoder(network, nn.Linear(1280, 16, bias=False))


@pytest.fixture
def pixels():
    """Return images of two classes, one with stripes, then others and their windows."""
    images = torch.randn(SMALL + OTHERS + 3 * WINDOWS, 3, 32, 32)
    images[: SMALL // 2, :, ::2] += 1
    return images


@pytest.fixture
def inputs(encoder, pixels):
    """Return the arguments of `TuningLoss`."""
    with torch.inference_mode():
        activations = Trunk(encoder.network).eval()(pixels).half().numpy()
    count = SMALL + OTHERS + 2 * WINDOWS
    rows = {
        "label": torch.tensor([0] * (SMALL // 2) + [1] * (SMALL // 2) + [-1] * (count - SMALL)),
        "number": torch.full((count,), -1),
        "full_size": torch.arange(count) >= SMALL + OTHERS,
        "split": torch.zeros(count, dtype=torch.long),
    }
    vectors = torch.randn(2 + 1000 + len(INNER_NAMES), 16)
    return DATA, rows, activations, spaces.Space(nn.Identity(), vectors, 3.0)


@pytest.fixture
def loss(encoder, inputs):
    data, rows, activations, space = inputs
    return vision.TuningLoss(data, rows, activations, encoder.tail(), space)


def accuracy(encoder, inputs):
    embeds = vision.embed(encoder.tail(), inputs[2])[:SMALL]
    named = (embeds @ inputs[3].targets()[:2].T).argmax(dim=1)
    return (named == inputs[1]["label"][:SMALL]).float().mean().item()


def test_trunk_and_tail_are_the_whole_image_encoder(encoder, pixels):
    with torch.inference_mode():
        whole = encoder.projection(encoder.network(pixels).pooler_output)
        parts = encoder.tail()(Trunk(encoder.network)(pixels))
    whole, parts = (nn.functional.normalize(each, dim=-1) for each in (whole, parts))
    torch.testing.assert_close(parts, whole, atol=1e-4, rtol=1e-4)


def test_a_window_made_small_is_drawn_to_the_embedding_of_the_window(loss):
    small, whole = loss.parts[3], loss.parts[2][-WINDOWS:]
    assert torch.equal(loss.anchors[small], loss.anchors[whole])


def test_small_images_are_named_after_tuning_and_only_the_last_blocks_change(
    encoder, inputs, tmp_path
):
    data, rows, activations, space = inputs
    before = {name: value.clone() for name, value in encoder.network.state_dict().items()}
    assert accuracy(encoder, inputs) < 0.8
    stage = Stage("vision", tmp_path, Schedule(40, 3e-3, warmup=5, ema_decay=0.9))
    tuned = vision.tune_encoder(encoder, data, rows, activations, space, stage)
    assert accuracy(tuned, inputs) > 0.9
    after = tuned.network.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    first = len(tuned.network.encoder.blocks) - TAIL_BLOCKS
    kept = ("embeddings", *(f"encoder.blocks.{n}." for n in range(first)))
    assert changed
    assert not [name for name in changed if name.startswith(kept)]
    assert not [name for name in changed if "depthwise_conv" in name or "running" in name]
