"""Checkpoints of encoders: round trips, fingerprints, damage, and models that are not there."""

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, CLIPModel

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.fingerprint import fingerprint_weights

from .clips import TEXTS, copy_of, photographs, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "clip"
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder)


def test_a_round_trip_keeps_every_weight_and_the_space(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    again = ClipEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode_image(photographs(3)), clip.encode_image(photographs(3)))
    assert torch.equal(again.encode_text(TEXTS), clip.encode_text(TEXTS))
    assert again.space("text").same_model_as(clip.space("text"))
    for name, weight in clip.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_saving_in_half_precision_stays_in_the_space(folder, clip, tmp_path):
    for dtype in ("bfloat16", "float16"):
        ClipEncoder.from_pretrained(folder, torch_dtype=dtype).save_pretrained(tmp_path / dtype)
        space = read_space(tmp_path / dtype, family="clip", modality="image")
        assert space.same_model_as(clip.space("image"))


def test_one_tower_saved_alone_stays_in_its_space(folder, clip, tmp_path):
    encoder = ClipEncoder.from_pretrained(folder, modalities=("image",))
    assert encoder.modalities == ("image",)
    half = sum(p.numel() for p in clip.parameters())
    assert sum(p.numel() for p in encoder.parameters()) < 0.7 * half
    encoder.save_pretrained(tmp_path)
    again = ClipEncoder.from_pretrained(tmp_path)
    assert again.modalities == ("image",)
    assert again.space("image").same_model_as(clip.space("image"))
    assert torch.equal(again.encode_image(photographs(2)), clip.encode_image(photographs(2)))
    with pytest.raises(UserError, match="embeds image, not text"):
        ClipEncoder.from_pretrained(tmp_path, modalities=("text",))


def test_the_fingerprint_is_that_of_the_weights_not_of_their_files(folder, clip, tmp_path):
    model = CLIPModel.from_pretrained(folder)
    expected = clip.space("image").fingerprint
    weights = load_file(folder / "model.safetensors")
    half = copy_of(folder, tmp_path / "half")
    model.half().save_pretrained(half)
    shards = copy_of(folder, tmp_path / "shards", **{"model.safetensors": None})
    CLIPModel.from_pretrained(folder).save_pretrained(shards, max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    legacy = copy_of(folder, tmp_path / "legacy", **{"model.safetensors": None})
    torch.save(weights, legacy / "pytorch_model.bin")
    positions = copy_of(folder, tmp_path / "positions")
    save_file(
        {**weights, "text_model.embeddings.position_ids": torch.arange(77)[None]},
        positions / "model.safetensors",
        metadata={"format": "pt"},
    )
    for other in (half, shards, legacy, positions):
        encoder = ClipEncoder.from_pretrained(other)
        assert encoder.space("image").fingerprint == expected, other.name
        assert torch.allclose(
            encoder.encode_image(photographs(2)), clip.encode_image(photographs(2)), atol=5e-3
        )


def test_other_weights_images_or_words_have_another_fingerprint(folder, clip, tmp_path):
    write_clip(tmp_path / "weights", seed=1)
    write_clip(tmp_path / "pictures", image_mean=[0.5, 0.5, 0.5])
    words = copy_of(folder, tmp_path / "words")
    settings = json.loads((words / "tokenizer_config.json").read_text())
    settings["model_max_length"] = 20
    (words / "tokenizer_config.json").write_text(json.dumps(settings))
    trained = copy_of(folder, tmp_path / "trained")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] *= 1.01
    save_file(weights, trained / "model.safetensors", metadata={"format": "pt"})
    names = ("weights", "pictures", "words", "trained")
    spaces = [read_space(tmp_path / n, family="clip", modality="image") for n in names]
    fingerprints = {space.fingerprint for space in spaces} | {clip.space("image").fingerprint}
    assert len(fingerprints) == 5


def test_a_note_left_beside_other_weights_is_not_believed(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["visual_projection.weight"] += 0.01
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert not read_space(tmp_path, family="clip", modality="image").same_model_as(
        clip.space("image")
    )


def test_the_space_is_read_without_building_the_model(folder, clip, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was built")

    monkeypatch.setattr(AutoModel, "from_pretrained", refuse)
    assert read_space(folder, family="clip", modality="text") == clip.space("text")


def damaged(folder: Path, target: Path, change) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    copy_of(folder, target)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("visual_projection.weight"), r"missing visual_projection\.weight"),
        (lambda w: w.update(extra=torch.zeros(3)), r"unexpected extra"),
        (
            lambda w: w.update({"text_projection.weight": torch.zeros(5, 16)}),
            r"mismatched text_projection\.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, tmp_path, change, message, capfd):
    target = damaged(folder, tmp_path / "damaged", change)
    with pytest.raises(CheckpointError, match=message) as error:
        ClipEncoder.from_pretrained(target)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


class Exploit:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_loaded(folder, tmp_path):
    target = copy_of(folder, tmp_path / "evil")
    (target / "model.safetensors").unlink()
    torch.save({"logit_scale": Exploit(tmp_path / "ran")}, target / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="convert it to safetensors"):
        ClipEncoder.from_pretrained(target)
    (target / "pytorch_model.bin").write_bytes(pickle.dumps(Exploit(tmp_path / "ran")))
    with pytest.raises(CheckpointError, match="convert it to safetensors"):
        read_space(target, family="clip", modality="image")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", r"config\.json is not valid JSON"),
        ("config.json", b'{"model_type": "bicycle"}', r"config\.json cannot be read"),
        ("config.json", b'{"model_type": "clap"}', "is a CLAP; expected a CLIP"),
        ("config.json", b'{"model_type": "bert"}', "no projection into a joint space"),
        ("config.json", None, "is no CLIP checkpoint: expected a config.json"),
        ("model.safetensors", None, r"holds no weights: expected model\.safetensors"),
        ("model.safetensors", b"cut", "not a complete safetensors file"),
        ("preprocessor_config.json", b"[]", "should hold a JSON object"),
    ],
)
def test_damaged_folders_are_reported_in_one_line(folder, tmp_path, file, content, message):
    target = copy_of(folder, tmp_path / "damaged")
    (target / file).unlink()
    if content is not None:
        (target / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        ClipEncoder.from_pretrained(target)
    assert "\n" not in str(error.value)


def test_weights_that_break_off_are_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "cut")
    whole = (target / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(whole[:-500])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        ClipEncoder.from_pretrained(target)


def test_a_missing_shard_is_named(folder, tmp_path):
    CLIPModel.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="20KB")
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match=r"The shard .*model-00002.* is missing"):
        read_space(tmp_path, family="clip", modality="image")


ASK_FOR_A_MODEL = """
from clip2clap.embeddings import ClipEncoder
names = ("openai/clip-vit-base-patch32", "clip-vit-base-patch31", "clip-vit-base-patch32")
for name in (*names, "./nowhere", "a b"):
    try:
        ClipEncoder.from_pretrained(name)
    except FileNotFoundError as error:
        print(error)
"""


def test_a_model_that_cannot_be_found_is_named_at_once_in_one_line(tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_A_MODEL],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,  # the hub client by itself would retry for minutes
        env={**environment, "HF_HUB_OFFLINE": "0"},
    )
    assert done.stderr == ""
    hub_id, typo, preset, folder, nonsense = done.stdout.splitlines()
    assert "hf download openai/clip-vit-base-patch32" in hub_id
    assert "local folder" in hub_id
    assert "Did you mean 'clip-vit-base-patch32'?" in typo
    assert "Did you mean" not in preset
    assert "hf download openai/clip-vit-base-patch32" in preset
    assert folder.startswith("There is no folder ./nowhere.")
    assert "neither a folder nor a hub id" in nonsense


def test_a_cached_model_needs_no_network(folder, tmp_path, monkeypatch):
    snapshot = tmp_path / "models--an--id" / "snapshots" / ("a" * 40)
    copy_of(folder, snapshot)
    refs = tmp_path / "models--an--id" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    encoder = ClipEncoder.from_pretrained("an/id", local_files_only=True)
    assert encoder.space("image").model_id == "an/id"
    with pytest.raises(ModelNotFoundError, match="an/other"):
        ClipEncoder.from_pretrained("an/other", local_files_only=True)


def test_other_dtypes_are_refused(folder):
    with pytest.raises(UserError, match="Expected torch_dtype"):
        ClipEncoder.from_pretrained(folder, torch_dtype="int8")


def test_reading_the_fingerprint_of_a_large_file_reads_little_of_it(tmp_path):
    file, count = tmp_path / "large.safetensors", 2**31
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"weight": entry}).encode()
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 4 * count)  # 8 GB of nothing
    tracemalloc.start()
    fingerprint_weights([file])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
