"""Translators in folders: exact round trips, older formats, damaged files."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import clip2clap
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator
from clip2clap.translator.checkpoint import read_config
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator
from clip2clap.translator.saving import Provenance

from .builders import CLAP, CLIP, FORMAT_1, KINDS, embeds, linear, mlp, seeded, weights_of


def test_perturbed_weights_survive_saving_exactly(translator: Translator, tmp_path: Path):
    for weight in translator.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=seeded(2))
    translator.record(recipe={"loss": "cosine"}, metrics={"mrr": 0.25}, data="f1e1d")
    translator.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert type(loaded) is type(translator)
    assert not loaded.training
    assert torch.equal(loaded(embeds()), translator(embeds()))
    assert (loaded.source_space, loaded.target_space) == (CLIP, CLAP)
    assert loaded.config["recipe"] == {"loss": "cosine"}
    assert loaded.config["metrics"] == {"mrr": 0.25}
    assert loaded.config["data"] == "f1e1d"
    assert loaded.config["versions"] == {
        "clip2clap": clip2clap.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def test_the_versions_that_made_a_translator_stay_in_its_config(tmp_path: Path):
    MLPTranslator(
        8, 6, hidden_size=4, provenance=Provenance(versions={"clip2clap": "0.0.9"})
    ).save_pretrained(tmp_path)
    assert AutoTranslator.from_pretrained(tmp_path).config["versions"] == {"clip2clap": "0.0.9"}


def test_every_architecture_answers_the_same_in_a_fresh_process(tmp_path: Path):
    made = {make.__name__: make() for make in KINDS}
    for name, translator in made.items():
        translator.save_pretrained(tmp_path / name)
    save_file({"embeds": embeds()}, tmp_path / "in.safetensors")
    program = f"""
import torch
from pathlib import Path
from safetensors.torch import load_file, save_file
from clip2clap import AutoTranslator
folder = Path({str(tmp_path)!r})
embeds = load_file(folder / "in.safetensors")["embeds"]
loaded = {{name: AutoTranslator.from_pretrained(folder / name) for name in {list(made)}}}
answers = {{name: translator(embeds).detach() for name, translator in loaded.items()}}
save_file(answers, folder / "out.safetensors")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = load_file(tmp_path / "out.safetensors")
    for name, translator in made.items():
        assert torch.equal(answers[name], translator(embeds()).detach()), name


def test_a_checkpoint_of_format_1_is_upgraded_on_load(tmp_path: Path):
    written = json.loads((FORMAT_1 / "config.json").read_text())
    assert "_format_version" not in written
    assert written["clip2clap_version"] == "0.1.0"
    for config in (read_config(FORMAT_1), AutoTranslator.from_pretrained(FORMAT_1).config):
        assert config["_format_version"] == 3
        assert config["versions"] == {"clip2clap": "0.1.0", "diffusers": "0.42.1"}
        assert config["data"] is None
        assert config["metrics"] == {"mrr": 0.25}
        assert "clip2clap_version" not in config
    loaded = AutoTranslator.from_pretrained(FORMAT_1)
    # Its weights keep the first two values and swap them.
    y = loaded(torch.tensor([[3.0, 4.0, 12.0]])).detach()
    torch.testing.assert_close(y, torch.tensor([[0.8, 0.6]]))
    assert loaded.source_space == EmbeddingSpace("clip", "some/clip", "text", 3, True, "c11p")
    loaded.save_pretrained(tmp_path)
    rewritten = json.loads((tmp_path / "config.json").read_text())
    assert rewritten["_format_version"] == 3
    assert rewritten["versions"] == {"clip2clap": "0.1.0", "diffusers": "0.42.1"}


def test_a_prior_of_format_2_keeps_its_renamed_options_and_weights(tmp_path: Path):
    written = PriorTranslator(8, 6, hidden_size=16, centered=True).eval()
    written.initialize(seeded())
    written.fit_whitening(torch.full((6,), 0.1), torch.diag(torch.arange(1.0, 7)))
    written.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"hidden": config.pop("hidden_size"), "centred": config.pop("centered")}
    (tmp_path / "config.json").write_text(json.dumps({**config, "_format_version": 2}))
    weights = load_file(weights_of(tmp_path))
    weights |= {"middle": weights.pop("mean"), "axes": weights.pop("eigenvectors")}
    save_file(weights, weights_of(tmp_path))
    loaded = AutoTranslator.from_pretrained(tmp_path)
    assert torch.equal(loaded(embeds()), written(embeds()))
    assert (loaded.config["hidden_size"], loaded.config["centered"]) == (16, True)


def test_loading_an_older_format_says_nothing(caplog: pytest.LogCaptureFixture, capfd):
    AutoTranslator.from_pretrained(FORMAT_1)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_a_format_of_the_future_is_refused(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "_format_version": 4}))
    with pytest.raises(UserError, match=r"format 4; .*up to 3\. Install a newer"):
        AutoTranslator.from_pretrained(tmp_path)


def test_from_config_keeps_what_was_given_by_position():
    copy: Any = MLPTranslator.from_config(mlp().config)
    assert (copy.source_dim, copy.target_dim, copy.config["hidden_size"]) == (8, 6, 16)
    assert copy.target_space == CLAP


def test_read_config_needs_no_weights(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    weights_of(tmp_path).unlink()
    config = read_config(tmp_path)
    assert EmbeddingSpace.from_dict(config["target_space"]) == CLAP
    assert config["hidden_size"] == 16


def test_a_variant_and_a_subfolder_are_found(tmp_path: Path):
    mlp().to(torch.float16).save_pretrained(tmp_path / "translator", variant="fp16")
    assert (tmp_path / "translator/diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded = AutoTranslator.from_pretrained(tmp_path, subfolder="translator", variant="fp16")
    assert torch.equal(loaded(embeds()), mlp().to(torch.float16).to(torch.float32)(embeds()))


def test_missing_extra_and_wrongly_sized_weights_are_named(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    weights = load_file(weights_of(tmp_path))
    weights["layers.7.weight"] = weights.pop("layers.0.weight")
    weights["layers.4.bias"] = torch.zeros(3)
    save_file(weights, weights_of(tmp_path))
    with pytest.raises(
        UserError,
        match=r"missing layers\.0\.weight; unexpected layers\.7\.weight; "
        r"mismatched layers\.4\.bias \(3,\) where \(6,\)",
    ):
        AutoTranslator.from_pretrained(tmp_path)


def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    whole = weights_of(tmp_path).read_bytes()
    weights_of(tmp_path).write_bytes(whole[:-10])
    with pytest.raises(UserError, match="can't be read") as caught:
        AutoTranslator.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_neither_loaded_nor_written(tmp_path: Path):
    translator = mlp()
    translator.save_pretrained(tmp_path)
    weights_of(tmp_path).unlink()
    torch.save(translator.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"safetensors is missing"):
        AutoTranslator.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="safetensors only"):
        translator.save_pretrained(tmp_path, safe_serialization=False)


def test_a_config_that_cannot_be_used_is_refused(tmp_path: Path):
    mlp().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def load_with(**changes: object) -> None:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
        AutoTranslator.from_pretrained(tmp_path)

    with pytest.raises(UserError, match=r"TreeTranslator.*MLPTranslator, LinearTranslator"):
        load_with(_class_name="TreeTranslator")
    with pytest.raises(UserError, match=r"doesn't know: blocks"):
        load_with(blocks=3)
    with pytest.raises(UserError, match="broken source_space"):
        load_with(source_space={"family": "clip"})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        AutoTranslator.from_pretrained(tmp_path)


def test_another_architecture_is_not_loaded_by_its_class(tmp_path: Path):
    linear().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"LinearTranslator, not a MLPTranslator.*AutoTranslator"):
        MLPTranslator.from_pretrained(tmp_path)


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    size: Any = np.int64(4)
    scale: Any = np.float32(2)
    PriorTranslator(size, size, size, blocks=size, default_guidance_scale=scale).save_pretrained(
        tmp_path
    )
    config = AutoTranslator.from_pretrained(tmp_path).config
    assert (config["source_dim"], config["blocks"], config["default_guidance_scale"]) == (4, 4, 2.0)
