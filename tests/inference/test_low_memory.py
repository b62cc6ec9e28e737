"""Pipelines whose weights stay in their files."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clip2clap.core.errors import UserError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading.streaming import stored_tensors

from .builders import FAST, colored_images, needs_bfloat16_attention, seeded


@pytest.fixture(scope="module")
def light(saved_once):
    pipeline: Any = ImageToAudioPipeline.from_pretrained(
        saved_once, torch_dtype=None, low_memory=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def resident_bytes(model):
    """Return the bytes of a model's parameters, without dimensions of stride 0."""
    return sum(each.untyped_storage().nbytes() for each in model.parameters())


def test_low_memory_gives_the_same_audio_with_no_weights_in_memory(light, pipe):
    call = {"images": colored_images(2), **FAST}
    got, expected = light(**call, generator=seeded()), pipe(**call, generator=seeded())
    assert torch.equal(got.audio_embeds, expected.audio_embeds)
    torch.testing.assert_close(got.audios, expected.audios, atol=1e-5, rtol=1e-5)
    for part in ("unet", "vae", "vocoder", "clip"):
        model, whole = getattr(light, part), getattr(pipe, part)
        assert model.dtype == whole.dtype
        assert resident_bytes(model) < 0.05 * resident_bytes(whole)


def test_low_memory_gives_the_same_images(painter_folder, decoder):
    light: Any = AudioToImagePipeline.from_pretrained(
        painter_folder, torch_dtype=None, low_memory=True
    )
    light.set_progress_bar_config(disable=True)
    call = {"image_embeds": torch.eye(12)[:2], "num_inference_steps": 3, "output_type": "pt"}
    call |= {"image": colored_images(1), "generator": 0}
    torch.testing.assert_close(light(**call).images, decoder(**call).images, atol=1e-5, rtol=1e-5)


@needs_bfloat16_attention
def test_low_memory_casts_to_the_dtype_of_the_computation(saved, light):
    half: Any = ImageToAudioPipeline.from_pretrained(
        saved, torch_dtype=torch.bfloat16, low_memory=True
    )
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == torch.bfloat16
    call = {"images": colored_images(2), **FAST}
    got, expected = half(**call, generator=seeded()), light(**call, generator=seeded())
    error = (got.audios - expected.audios).std() / expected.audios.std()
    assert 0 < error < 0.2


def test_threads_share_a_pipeline_in_low_memory(light):
    def call(seed):
        return light(colored_images(1), **{**FAST, "output_type": "np"}, generator=seed).audios

    alone = [call(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(call, range(4)))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_pipeline_in_low_memory_generates_one_output_at_a_time(light):
    sizes = []

    def note(pipeline, index, timestep, tensors):
        sizes.append(len(tensors["latents"]))
        return {}

    light(colored_images(2), **FAST, callback_on_step_end=note)
    assert set(sizes) == {1}


def test_a_pipeline_in_low_memory_is_not_saved(light, tmp_path):
    with pytest.raises(UserError, match="load it without"):
        light.save_pretrained(tmp_path / "again")
    with pytest.raises(UserError, match="load it without"):
        ImageToAudioPipeline.from_pipe(light).save_pretrained(tmp_path / "again")


def test_stored_tensors_are_those_of_safetensors(saved):
    (file,) = (saved / "unet").glob("*.safetensors")
    expected, stored = load_file(file), stored_tensors([file])
    assert stored.keys() == expected.keys()
    assert all(torch.equal(place.read(), expected[name]) for name, place in stored.items())
