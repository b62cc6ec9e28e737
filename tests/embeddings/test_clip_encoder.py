import json
import sys
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
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    CLIPImageProcessorPil,
    CLIPModel,
    EfficientNetConfig,
    EfficientNetImageProcessorPil,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.media.images import UnreadableImageError

from .clips import SIZE, TEXTS, TOWER, clip_tokenizer, photographs, unit, write_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "clip"
    write_clip(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder) -> ClipEncoder:
    return ClipEncoder.from_pretrained(folder)


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


def test_open_clips_pixels_embed_as_the_images_themselves_do(open_clip_name):
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


def test_siglip_2_of_flexible_resolution_reads_each_image_in_its_own_proportions(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "rain", "on"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    text = {**TOWER, "vocab_size": len(words), "max_position_embeddings": 9}
    vision = {**TOWER, "num_patches": 16, "patch_size": 8}
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)
    processor.save_pretrained(tmp_path)
    encoder = ClipEncoder.from_pretrained(tmp_path)
    wide = photographs(1)[0].resize((90, 30))
    images = [*photographs(2), wide, wide.resize((64, 64))]
    pixels = processor(images=images, return_tensors="pt")
    # Of transformers' own class, whatever was saved.
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokens = tokenizer(["a dog"], padding="max_length", max_length=9, return_tensors="pt")
    with torch.no_grad():
        expected = unit(model.get_image_features(**pixels))
        texts = unit(model.get_text_features(input_ids=tokens["input_ids"]))
    found = encoder.encode_image(images, batch_size=2)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(encoder.encode_text(["a dog"]), texts, atol=1e-5)
    assert not torch.allclose(found[-1], found[-2], atol=1e-3)
    assert encoder.logit_bias is not None
    with pytest.raises(UserError, match="has no differentiable form"):
        encoder.encode_pixels(torch.rand(1, 3, 32, 32))


def test_a_vision_tower_alone_embeds_images_only(clip_folder):
    encoder = ClipEncoder.from_pretrained(clip_folder)
    assert encoder.modalities == ("image",)
    assert encoder.encode_image(photographs(2)).shape == (2, 12)
    with pytest.raises(UserError, match="embeds image only, not text"):
        encoder.encode_text(["a dog"])


def test_loading_and_encoding_print_nothing(folder, capfd):
    ClipEncoder.from_pretrained(folder).encode_image(photographs(2))
    assert capfd.readouterr() == ("", "")


def test_one_image_that_cannot_be_read_is_named(clip, tmp_path):
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
        (lambda clip: clip.encode_image(np.zeros((4, 4, 3))), "Put it in a list"),
        (lambda clip: clip.encode_text(text for text in "ab"), r"got a generator. Give list\("),
        (lambda clip: clip.encode_text(np.array(["a"])), r"got a ndarray. Give list\("),
        (lambda clip: clip.encode_text(["a", "\udce9"]), "Text 1 holds bytes that are not UTF-8"),
        (lambda clip: clip.encode_text(["a", 3]), "got int as text 1"),
        (lambda clip: clip.encode_text(["a"], batch_size=0), "batch_size to be at least 1"),
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


def test_embeddings_can_be_trained_on(clip):
    layer = torch.nn.Linear(24, 1)
    layer(clip.encode_image(photographs(2))).sum().backward()
    assert layer.weight.grad is not None


def test_offloaded_weights_give_the_same_vectors(folder, clip):
    encoder = ClipEncoder.from_pretrained(folder)
    accelerate.cpu_offload(encoder, execution_device=torch.device("cpu"))
    assert encoder.device.type == "meta"
    assert torch.equal(encoder.encode_image(photographs(3)), clip.encode_image(photographs(3)))
