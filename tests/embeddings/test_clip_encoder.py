import json
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModel,
    BertConfig,
    BertTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.fingerprint import fingerprint_weights
from clip2clap.media.images import UnreadableImageError

SIZE = 32
TEXTS = ["a dog", "rain on a tin roof", "a", "x" * 200, "", "a dog that barks at the rain"]
TOWER: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def photographs(count: int) -> list[Image.Image]:
    """Pictures of as many sizes, some upright, some lying."""
    random = np.random.default_rng(0)
    sizes = [(40 + 7 * i, 60 - 3 * i) for i in range(count)]
    return [Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def unit(outputs: Any) -> torch.Tensor:
    """What a model of transformers embedded, scaled to norm 1."""
    return F.normalize(outputs.pooler_output, dim=-1)


def clip_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with letters for its vocabulary."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def write_clip(folder: Path, *, seed: int = 0, **processor: Any) -> None:
    """Write a whole CLIP, like openai/clip-vit-base-patch32 in all but size."""
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    text = {**TOWER, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = {**TOWER, "image_size": SIZE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    CLIPImageProcessorPil(**sizes, **processor).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "clip"
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder)


def copy_of(folder: Path, target: Path, **replaced) -> Path:
    """Copy a checkpoint, with some of its files replaced (None leaves one out)."""
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.name not in replaced:
            (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_images_equal_transformers_own_processor_and_model(folder, clip, tmp_path, batch_size):
    paths = []
    for index, picture in enumerate(photographs(7)):
        paths.append(tmp_path / f"{index}.png")
        picture.save(paths[-1])
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    model = CLIPModel.from_pretrained(folder).eval()
    expected = []
    for path in paths:
        inputs = processor(images=Image.open(path), return_tensors="pt")
        expected.append(unit(model.get_image_features(**inputs)))
    got = clip.encode_image(paths, batch_size=batch_size)
    assert got.dtype == torch.float32
    assert torch.allclose(got, torch.cat(expected), atol=1e-5)
    assert torch.allclose(clip.encode_image(photographs(7), batch_size=batch_size), got, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_texts_equal_transformers_own_tokenizer_and_model(folder, clip, batch_size):
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), clip_tokenizer()
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    expected = unit(model.get_text_features(**inputs))
    assert torch.allclose(clip.encode_text(TEXTS, batch_size=batch_size), expected, atol=1e-5)


def test_embeddings_as_the_tower_gives_them_keep_their_length(folder, clip):
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), clip_tokenizer()
    inputs = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
    expected: Any = model.get_text_features(**inputs)
    raw = clip.encode_text(TEXTS, batch_size=2, normalize=False)
    assert torch.allclose(raw, expected.pooler_output, atol=1e-4)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.1
    assert torch.equal(F.normalize(raw, dim=-1), clip.encode_text(TEXTS, batch_size=2))
    pictures = photographs(3)
    raw = clip.encode_image(pictures, normalize=False)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.1
    assert torch.equal(F.normalize(raw, dim=-1), clip.encode_image(pictures))


@pytest.fixture(scope="module")
def open_clip_name(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("open_clip")
    vision = {"image_size": SIZE, "layers": 2, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip")
    save_file(model.state_dict(), folder / "tiny.safetensors")
    return f"open_clip:tiny-clip/{folder / 'tiny.safetensors'}"


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_images_and_texts_equal_open_clips_own_transform_and_model(open_clip_name, batch_size):
    encoder = ClipEncoder.from_pretrained(open_clip_name)
    weights = open_clip_name.removeprefix("open_clip:tiny-clip/")
    parts: Any = open_clip.create_model_and_transforms("tiny-clip", pretrained=weights)
    model, _, transform = parts
    model.eval()
    pixels = torch.stack([transform(picture) for picture in photographs(7)])
    with torch.no_grad():
        images = model.encode_image(pixels, normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer("tiny-clip")(TEXTS), normalize=True)
    assert torch.allclose(
        encoder.encode_image(photographs(7), batch_size=batch_size), images, atol=1e-5
    )
    assert torch.allclose(encoder.encode_text(TEXTS, batch_size=batch_size), texts, atol=1e-5)


def test_open_clips_pixels_embed_as_the_pictures_themselves_do(open_clip_name):
    encoder = ClipEncoder.from_pretrained(open_clip_name)
    picture, other = (image.resize((50, 75), Image.Resampling.BICUBIC) for image in photographs(2))
    pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None].float() / 255
    expected = encoder.encode_image([picture, other])
    own, control = (encoder.encode_pixels(pixels) @ expected.T)[0].tolist()
    assert own > 0.9999 > control


def test_a_saved_open_clip_loads_as_the_same_space(open_clip_name, tmp_path):
    encoder = ClipEncoder.from_pretrained(open_clip_name)
    encoder.save_pretrained(tmp_path)
    again = ClipEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode_image(photographs(2)), encoder.encode_image(photographs(2)))
    assert again.space("image") == encoder.space("image")


def test_an_open_clip_of_the_wrong_architecture_is_refused(open_clip_name, tmp_path):
    weights = load_file(open_clip_name.partition("/")[2])
    weights.pop("visual.proj")
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(CheckpointError, match=r"Missing key.*visual\.proj"):
        ClipEncoder.from_pretrained(f"open_clip:tiny-clip/{tmp_path / 'cut.safetensors'}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32", r"open_clip:ARCHITECTURE/TAG_OR_FILE"),
        ("open_clip:ViT-B-33/openai", r"no architecture 'ViT-B-33'. Did you mean ViT-B-32"),
        ("open_clip:ViT-B-32/nowhere.pt", r"neither a file nor open_clip's name of weights"),
    ],
)
def test_open_clip_names_that_stand_for_nothing_say_what_is_expected(name, message):
    with pytest.raises(UserError, match=message):
        ClipEncoder.from_pretrained(name)


def test_open_clip_that_is_not_installed_is_named(open_clip_name, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'clip2clap\[open-clip\]'"):
        ClipEncoder.from_pretrained(open_clip_name)


@pytest.fixture(scope="module")
def dual_folder(tmp_path_factory) -> Path:
    """A CLIP like the demo's: an EfficientNet and a BERT, stored in half precision."""
    folder = tmp_path_factory.mktemp("dual") / "clip"
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "rain", "on", "roof"]
    tokenizer = BertTokenizer(
        vocab={word: index for index, word in enumerate(words)}, model_max_length=12
    )
    sizes: dict[str, Any] = {"hidden_size": 128, "hidden_dim": 128}
    vision = EfficientNetConfig(
        image_size=SIZE,
        width_coefficient=0.1,
        depth_coefficient=0.1,
        **sizes,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 3],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 6],
    )
    text = BertConfig(vocab_size=len(words), max_position_embeddings=16, **TOWER)
    vision_model, text_model = AutoModel.from_config(vision), AutoModel.from_config(text)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision_model.config, text_model.config, projection_dim=24
    )
    model = VisionTextDualEncoderModel(config, vision_model, text_model).half()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    EfficientNetImageProcessorPil(size=size, do_center_crop=False).save_pretrained(folder)
    return folder


def test_a_dual_encoder_of_efficientnet_and_bert_equals_its_own_parts(dual_folder):
    encoder = ClipEncoder.from_pretrained(dual_folder)
    assert encoder.modalities == ("image", "text")
    model = VisionTextDualEncoderModel.from_pretrained(dual_folder, dtype=torch.float32).eval()
    processor = EfficientNetImageProcessorPil.from_pretrained(dual_folder)
    tokenizer = BertTokenizer.from_pretrained(dual_folder)
    pixels = processor(images=photographs(5), return_tensors="pt")
    tokens = tokenizer(TEXTS, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        images = unit(model.get_image_features(**pixels))
        texts = unit(model.get_text_features(**tokens))
    assert torch.allclose(encoder.encode_image(photographs(5), batch_size=2), images, atol=1e-5)
    assert torch.allclose(encoder.encode_text(TEXTS, batch_size=2), texts, atol=1e-5)


def test_siglip_sees_texts_padded_to_the_length_it_was_trained_on(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "rain", "on"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 9}
    vision = {**TOWER, "image_size": SIZE, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path)
    encoder = ClipEncoder.from_pretrained(tmp_path)
    tokens = tokenizer(["a dog", "rain"], padding="max_length", max_length=9, return_tensors="pt")
    processor = SiglipImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(images=photographs(3), return_tensors="pt")
    with torch.no_grad():
        texts = unit(model.get_text_features(input_ids=tokens["input_ids"]))
        images = unit(model.get_image_features(**pixels))
    assert torch.allclose(encoder.encode_text(["a dog", "rain"]), texts, atol=1e-5)
    assert torch.allclose(encoder.encode_image(photographs(3)), images, atol=1e-5)


def test_a_vision_tower_alone_embeds_pictures_only(clip_folder):
    encoder = ClipEncoder.from_pretrained(clip_folder)
    assert encoder.modalities == ("image",)
    assert encoder.encode_image(photographs(2)).shape == (2, 12)
    with pytest.raises(UserError, match="embeds image only, not text"):
        encoder.encode_text(["a dog"])


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


def test_other_weights_pictures_or_words_have_another_fingerprint(folder, clip, tmp_path):
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
def test_damaged_folders_are_told_in_one_line(folder, tmp_path, file, content, message):
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


def test_a_model_that_cannot_be_had_is_told_at_once_and_in_one_line(tmp_path):
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


def test_loading_and_encoding_print_nothing(folder, capfd):
    ClipEncoder.from_pretrained(folder).encode_image(photographs(2))
    assert capfd.readouterr() == ("", "")


def test_one_picture_that_cannot_be_read_is_named(clip, tmp_path):
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg is not an image"):
        clip.encode_image([*photographs(9), tmp_path / "text.jpg"], batch_size=2)


def test_one_pixel_is_encoded(clip):
    embeds = clip.encode_image([Image.new("RGB", (1, 1), "red"), Image.new("RGB", (9, 900), "red")])
    assert torch.allclose(embeds[0], embeds[1], atol=1e-5)


def test_nothing_gives_no_vectors(clip):
    assert clip.encode_image([]).shape == (0, 24)
    assert clip.encode_text([]).shape == (0, 24)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clip: clip.encode_text("a dog"), "Put it in a list"),
        (lambda clip: clip.encode_image(Image.new("RGB", (4, 4))), "Put it in a list"),
        (lambda clip: clip.encode_text(["a", 3]), "got int as text 1"),
        (lambda clip: clip.encode_text(["a"], batch_size=0), "batch_size of at least 1"),
        (lambda clip: clip.space("audio"), "embeds image and text only, not audio"),
    ],
)
def test_wrong_input_is_refused(clip, call, message):
    with pytest.raises(UserError, match=message):
        call(clip)


@pytest.mark.parametrize("dtype", [torch.bfloat16, "float16"])
def test_half_precision_gives_float32_unit_vectors(folder, clip, dtype):
    encoder = ClipEncoder.from_pretrained(folder, torch_dtype=dtype)
    embeds = encoder.encode_image(photographs(2))
    assert embeds.dtype == torch.float32
    assert torch.allclose(embeds.norm(dim=1), torch.ones(2), atol=1e-5)
    assert (embeds * clip.encode_image(photographs(2))).sum(dim=1).min() > 0.99
    assert encoder.space("image") == clip.space("image")


def test_other_dtypes_are_refused(folder):
    with pytest.raises(UserError, match="Expected torch_dtype"):
        ClipEncoder.from_pretrained(folder, torch_dtype="int8")


def test_embeddings_can_be_trained_on(clip):
    layer = torch.nn.Linear(24, 1)
    layer(clip.encode_image(photographs(2))).sum().backward()
    assert layer.weight.grad is not None


def test_offloaded_weights_give_the_same_vectors(folder, clip):
    encoder = ClipEncoder.from_pretrained(folder)
    accelerate.cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert encoder.device.type == "meta"
    assert torch.equal(encoder.encode_image(photographs(3)), clip.encode_image(photographs(3)))


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
