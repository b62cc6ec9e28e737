"""Malformed configs of models: every one loads and generates, or is a `UserError`."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.encoders import base
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading import components

from .builders import few, works_or_says_why

PARTS = ("scheduler", "unet", "vae", "vocoder", "negative_embedding")
DEEP = json.loads("[" * 60 + "]" * 60)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([10**9, 10**30, -(10**12)]),
    st.floats(),
    st.sampled_from(["", "x", "16000", "DownBlock2D", "silu", "linear", "9" * 50]),
)
VALUES = LEAVES | st.lists(LEAVES, max_size=4) | st.just(DEEP) | st.dictionaries(st.text(), LEAVES)


def copy_with_links(folder: Path, copy: Path) -> list[Path]:
    """Copy a checkpoint, weights as links, and return its JSON configs."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, copy_function=os.link)
    configs = [path for part in PARTS for path in sorted((copy / part).glob("*.json"))]
    return [copy / "model_index.json", *configs]


def replace(file: Path, text: str | bytes) -> None:
    """Write a file anew, since other copies share the old one."""
    file.unlink()
    file.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory, audioldm_folder: Path, painter_folder: Path
) -> dict[str, Path]:
    saved = tmp_path_factory.mktemp("fuzz") / "saved"
    ImageToAudioPipeline.from_audioldm(audioldm_folder).save_pretrained(saved)
    return {"audioldm": audioldm_folder, "saved": saved, "decoder": painter_folder}


@pytest.fixture
def loaded_once(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Load once what is in folders that no input has changed."""
    whole = {path.stat().st_ino for root in checkpoints.values() for path in root.rglob("*")}
    kept: dict[Any, Any] = {}

    def once(load: Callable[..., Any], folder_of: Callable[..., Path]) -> Callable[..., Any]:
        def loaded(*args: Any, **options: Any) -> Any:
            files = [path for path in folder_of(*args).rglob("*") if path.is_file()]
            nodes = frozenset(path.stat().st_ino for path in files)
            if not nodes or not nodes <= whole:
                return load(*args, **options)
            plain = [each for each in args if isinstance(each, type | str)]
            key = load, nodes, *plain, str(options)
            if key not in kept:
                kept[key] = load(*args, **options)
            return kept[key]

        return loaded

    def encoder_folder(encoder_class: type[base.Encoder], name: str) -> Path:
        return base.find_checkpoint(name, encoder_class.kind).folder or Path(name)

    strictly = once(components.load_strictly, lambda _, folder: folder)
    monkeypatch.setattr(components, "load_strictly", strictly)
    load = once(vars(base.Encoder)["from_pretrained"].__func__, encoder_folder)
    monkeypatch.setattr(base.Encoder, "from_pretrained", classmethod(load))


def load_and_run(name: str, folder: Path) -> None:
    pipeline_class = AudioToImagePipeline if name == "decoder" else ImageToAudioPipeline
    pipeline: Any = pipeline_class.from_pretrained(folder, torch_dtype=None)
    pipeline.set_progress_bar_config(disable=True)
    embeds = torch.ones(1, pipeline.embed_dim)
    if name == "decoder":
        pipeline(image_embeds=embeds, num_inference_steps=1)
    else:
        call = {"num_inference_steps": 1, "audio_length_in_s": 0.064, "num_candidates": 1}
        pipeline(prompt_embeds=embeds, **call)


@pytest.mark.usefixtures("loaded_once")
@few(20)
@given(name=st.sampled_from(["audioldm", "saved", "decoder"]), data=st.data())
def test_a_config_with_an_odd_value_runs_or_is_refused(checkpoints, tmp_path, name, data):
    folder = tmp_path / "copy"
    file = data.draw(st.sampled_from(copy_with_links(checkpoints[name], folder)))
    config = json.loads(file.read_text())
    field = data.draw(st.sampled_from(sorted(config)))
    value = data.draw(VALUES)
    if isinstance(config[field], list) and config[field] and data.draw(st.booleans()):
        config[field][-1] = value
    else:
        config[field] = value
    replace(file, json.dumps(config))
    works_or_says_why(lambda: load_and_run(name, folder))


@pytest.mark.usefixtures("loaded_once")
@few(20)
@given(name=st.sampled_from(["audioldm", "saved", "decoder"]), data=st.data())
def test_a_config_with_damaged_bytes_runs_or_is_refused(checkpoints, tmp_path, name, data):
    folder = tmp_path / "copy"
    file = data.draw(st.sampled_from(copy_with_links(checkpoints[name], folder)))
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    replace(file, bytes(content[: data.draw(st.integers(0, len(content)))]))
    works_or_says_why(lambda: load_and_run(name, folder))


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("vocoder/config.json", "sampling_rate", 0),
        ("vocoder/config.json", "sampling_rate", "16000"),
        ("vocoder/config.json", "upsample_rates", [0, 2]),
        ("unet/config.json", "sample_size", None),
        ("unet/config.json", "layers_per_block", 10**9),
        ("unet/config.json", "block_out_channels", DEEP),
        ("unet/config.json", "norm_eps", "small"),
        ("unet/config.json", "act_fn", "sine"),
        ("unet/config.json", "down_block_types", ["DownBlock3D", "DownBlock2D"]),
        ("unet/config.json", "flip_sin_to_cos", "false"),
        ("vae/config.json", "scaling_factor", 0),
        ("vae/config.json", "latent_channels", {"a": 1}),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10**12),
        ("scheduler/scheduler_config.json", "beta_end", "0.01"),
        ("scheduler/scheduler_config.json", "prediction_type", "noise"),
        ("model_index.json", "default_guidance_scale", "high"),
        ("model_index.json", "default_num_inference_steps", None),
        ("model_index.json", "clap_space", 3),
        ("model_index.json", "clap_id", ["a"]),
    ],
)
def test_the_file_and_the_field_at_fault_are_named(checkpoints, tmp_path, file, field, value):
    folder = tmp_path / "copy"
    copy_with_links(checkpoints["saved"], folder)
    config = json.loads((folder / file).read_text())
    replace(folder / file, json.dumps({**config, field: value}))
    with pytest.raises(UserError, match=field) as refusal:
        ImageToAudioPipeline.from_pretrained(folder)
    assert file.split("/")[0] in str(refusal.value)


def test_json_too_deep_or_with_endless_digits_is_refused(checkpoints, tmp_path):
    folder = tmp_path / "copy"
    copy_with_links(checkpoints["saved"], folder)
    for text in ("[" * 100_000, '{"a": ' + "9" * 100_000 + "}", "[]", '"text"'):
        replace(folder / "model_index.json", text)
        with pytest.raises(CheckpointError, match=r"model_index\.json"):
            ImageToAudioPipeline.from_pretrained(folder)
