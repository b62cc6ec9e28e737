"""Prompts, text-to-image pipelines of diffusers, and images of audio by way of words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from clip2clap import AudioToImagePipeline
from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.inference.noise import second_generators
from clip2clap.inference.prompts import PromptTemplate
from clip2clap.inference.text_to_image import TextToImage
from clip2clap.inference.words_route import WordsRoute

RATE = 16_000


@pytest.fixture(scope="module")
def model(text_to_image_folder) -> TextToImage:
    return TextToImage.from_pretrained(text_to_image_folder, torch_dtype=None)


@pytest.fixture(scope="module")
def pipe() -> AudioToImagePipeline:
    made = AudioToImagePipeline.from_pretrained("demo")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def noise() -> list[tuple[np.ndarray, int]]:
    generator = np.random.default_rng(0)
    return [(generator.uniform(-0.5, 0.5, RATE).astype(np.float32), RATE) for _ in range(2)]


def say(*prompts: str):
    return lambda embeds: list(prompts)[: len(embeds)]


def arrays(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


@pytest.mark.parametrize(
    ("template", "caption", "keywords", "prompt"),
    [
        ("{caption}, {keywords}", "a dog barks", ["dog", "growl"], "a dog barks, dog, growl"),
        ("{caption}, {keywords}", "", ["dog"], "dog"),
        ("{caption}, {keywords}", "a dog", [], "a dog"),
        ("oil painting of {caption}", "ein Hündchen", ["x"], "oil painting of ein Hündchen"),
    ],
)
def test_a_template_leaves_no_comma_for_what_is_empty(template, caption, keywords, prompt):
    assert PromptTemplate(template)(caption, keywords) == prompt


@pytest.mark.parametrize("template", ["", "a dog", "{caption} {label}", "{", "{caption!r}", "{}"])
def test_other_templates_are_refused(template):
    with pytest.raises(UserError, match="template"):
        PromptTemplate(template)


def test_images_are_those_of_diffusers(text_to_image_folder, model):
    plain: Any = StableDiffusionPipeline.from_pretrained(text_to_image_folder)
    plain.set_progress_bar_config(disable=True)
    options: Any = {"num_inference_steps": 2, "guidance_scale": 3.0}
    expected = plain(["a dog", "a cat"], generator=seeds(1, 2), **options).images
    found = model(["a dog", "a cat"], generator=[1, 2], batch_size=1, **options)
    assert np.abs(arrays(found).astype(int) - arrays(expected)).max() <= 1
    start = Image.new("RGB", (40, 20), "red")
    other: Any = StableDiffusionImg2ImgPipeline(**plain.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    fitted = Image.new("RGB", (16, 16), "red")
    options = {"num_inference_steps": 4, "strength": 0.5}
    expected = other(["a dog"], image=[fitted], generator=seeds(1), **options).images
    found = model(["a dog"], images=[start], generator=[1], **options)
    assert np.array_equal(arrays(found), arrays(expected))


def test_at_strength_0_the_start_is_left(model):
    start = Image.new("RGB", (16, 16), "red")
    (found,) = model(["a dog"], images=[start], strength=0, generator=[1])
    assert np.array_equal(np.asarray(found), np.asarray(start))


def test_the_prompt_and_the_seed_decide(model):
    options = {"num_inference_steps": 2}
    one, other, third = (
        arrays(model([prompt], generator=[seed], **options))
        for prompt, seed in (("dog", 1), ("cat", 1), ("dog", 2))
    )
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, third)


def test_an_option_that_the_pipeline_has_not_is_refused(model):
    with pytest.raises(UserError, match="StableDiffusionPipeline takes no audio_length_in_s"):
        model(["a dog"], generator=[1], audio_length_in_s=3)


def test_a_missing_weight_is_named(text_to_image_folder, tmp_path):
    import shutil

    broken = Path(shutil.copytree(text_to_image_folder, tmp_path / "broken"))
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight"):
        TextToImage.from_pretrained(broken)


def test_other_pipelines_and_nothing_are_refused():
    from clip2clap.core.presets import PRESETS

    with pytest.raises(CheckpointError, match="AudioToImagePipeline, which is no text-to-image"):
        TextToImage.from_pretrained(PRESETS["decoder"]["demo"])
    with pytest.raises(ModelNotFoundError, match="stable-diffusion-1-5"):
        TextToImage.from_pretrained("nowhere")


def test_the_words_route_makes_the_prompts_images_and_ranks_them_by_the_audio(pipe, model, noise):
    route = WordsRoute(pipe, say("a dog", "a cat"), model, num_inference_steps=2)
    found = route(noise, generator=seeds(1, 2), num_candidates=2)
    assert found.prompts == ["a dog", "a cat"]
    first = model(["a dog", "a cat"], generator=[1, 2], num_inference_steps=2)
    assert np.array_equal(arrays(found.images[::2]), arrays(first))
    expected = torch.nn.functional.normalize(pipe.translate(pipe.encode_audio(noise)))
    assert torch.allclose(found.image_embeds, expected, atol=1e-6)
    embeds = pipe.clip.encode_image(found.images).view(2, 2, -1)
    similar = (embeds * expected[:, None]).sum(-1)
    assert found.similarities is not None
    assert torch.allclose(found.similarities, similar, atol=1e-5)


def test_mixed_routes_start_from_the_decoders_image(pipe, model, noise):
    decoded = pipe(noise, generator=seeds(1, 2), num_inference_steps=2)
    own: Any = {"num_inference_steps": 4, "width": 128, "height": 128}
    route = WordsRoute(pipe, say("a dog", "a cat"), model, mixed=True, **own)
    kept = route(noise, generator=seeds(1, 2), num_inference_steps=2, strength=0)
    assert np.array_equal(arrays(kept.images), arrays(decoded.images))
    found = route(noise, generator=seeds(1, 2), num_inference_steps=2, strength=0.5)
    expected = model(
        ["a dog", "a cat"],
        images=decoded.images,
        strength=0.5,
        generator=second_generators(seeds(1, 2)),
        **own,
    )
    assert np.array_equal(arrays(found.images), arrays(expected))
    words = WordsRoute(pipe, say("a dog", "a cat"), model, **own)
    words = words(noise, generator=second_generators(seeds(1, 2)))
    assert not np.array_equal(arrays(found.images), arrays(words.images))


def test_without_a_model_the_decoder_gets_the_prompt(pipe, noise):
    options = {"num_inference_steps": 2, "prompt_weight": 0.6}
    found = WordsRoute(pipe, say("a dog", "fire"))(noise, generator=seeds(1, 2), **options)
    expected = pipe(noise, prompt=["a dog", "fire"], generator=seeds(1, 2), **options)
    assert np.array_equal(arrays(found.images), arrays(expected.images))
    with pytest.raises(UserError, match="text-to-image model"):
        WordsRoute(pipe, say("a dog"), mixed=True)
