"""Damaged translator folders and odd settings: loaded, or refused by an error that says why."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.training.config import TrainingConfig
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.residual import ResidualTranslator
from clip2clap.translator.saving import Provenance

from .builders import VALUES, few, works_or_says_why

WEIGHTS = "diffusion_pytorch_model.safetensors"
FACTS = Provenance(
    EmbeddingSpace("clip", "a/clip", "image", 6, True, "c11p"),
    EmbeddingSpace("clap", "a/clap", "audio", 5, True, "c1a9"),
    recipe={"method": "mlp", "epochs": 3},
    metrics={"mrr": 0.5},
    data="da7a",
)
MODELS = [
    LinearTranslator(6, 5, provenance=FACTS),
    MLPTranslator(6, 5, 4, provenance=FACTS),
    ResidualTranslator(6, 5, 4, blocks=1, provenance=FACTS),
    PriorTranslator(6, 5, 4, blocks=1, provenance=FACTS),
]


def loads_or_says_why(folder: Path) -> None:
    why = works_or_says_why(lambda: AutoTranslator.from_pretrained(folder))
    assert why is None or str(folder) in why


@pytest.fixture(params=MODELS, ids=lambda model: type(model).__name__)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    request.param.save_pretrained(tmp_path)
    return tmp_path


@few(20)
@given(data=st.data())
def test_any_value_of_a_field_loads_or_is_refused_by_name(folder: Path, data: st.DataObject):
    config = json.loads((folder / "config.json").read_text())
    saved = json.dumps(config)
    holder = data.draw(st.sampled_from([config, config["source_space"], config["target_space"]]))
    key = data.draw(st.sampled_from(sorted(holder)))
    holder[key] = data.draw(VALUES)
    (folder / "config.json").write_text(json.dumps(config))
    try:
        loads_or_says_why(folder)
    finally:
        (folder / "config.json").write_text(saved)


def changed(saved: bytes, data: st.DataObject) -> bytes:
    """Replace, cut out or insert a few bytes."""
    at = data.draw(st.integers(0, len(saved)))
    end = data.draw(st.integers(at, min(len(saved), at + 40)))
    return saved[:at] + data.draw(st.binary(max_size=20)) + saved[end:]


@few(20)
@given(data=st.data())
@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_damaged_file_loads_or_is_refused(folder: Path, name: str, data: st.DataObject):
    saved = (folder / name).read_bytes()
    (folder / name).write_bytes(changed(saved, data))
    try:
        loads_or_says_why(folder)
    finally:
        (folder / name).write_bytes(saved)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "[" * 100_000, '{"a":' * 100_000, '{"hidden_size": ' + "9" * 5_000],
)
def test_text_that_is_no_config_is_refused(folder: Path, text: str):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        AutoTranslator.from_pretrained(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda w: w.long(),
        lambda w: w.bool(),
        lambda w: w.to(torch.complex64),
        lambda w: w * torch.nan,
    ],
    ids=["integers", "booleans", "complex", "nan"],
)
def test_weights_that_are_no_finite_numbers_are_refused(
    tmp_path: Path, damage: Callable[[torch.Tensor], torch.Tensor]
):
    MODELS[1].save_pretrained(tmp_path)
    weights = {name: damage(weight) for name, weight in load_file(tmp_path / WEIGHTS).items()}
    save_file(weights, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"layers\.0\.bias"):
        AutoTranslator.from_pretrained(tmp_path)


@few(20)
@given(
    name=st.sampled_from([field.name for field in fields(TrainingConfig)]),
    value=VALUES | st.binary(max_size=3),
)
def test_settings_are_kept_as_json_or_refused_by_name(name: str, value: Any):
    for make in (
        lambda: TrainingConfig(**{name: value}),
        lambda: next(iter(SweepGrid(**{name: value}).settings(TrainingConfig()).values())),
    ):
        param = name
        try:
            config = make()
        except UserError as error:
            param = error.param
        else:
            assert TrainingConfig.from_dict(json.loads(json.dumps(asdict(config)))) == config
            config.resolved(1_000)
        assert param in (name, "architecture", "init", "loss", "temperature")
