"""Our pipeline against diffusers' own AudioLDM and MusicLDM pipelines, on the same checkpoints."""

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor
from torch.nn.functional import normalize

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.inference.image_to_audio import ImageToAudioPipeline

SECONDS = 0.064
STEPS = 4

pytestmark = pytest.mark.skipif(
    not hasattr(diffusers, "AudioLDMPipeline"),
    reason="this diffusers no longer has the pipelines to compare with",
)


def vectors(count: int, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 16, generator=generator), dim=-1)


def starting_noise(count: int) -> Tensor:
    return torch.randn(count, 4, 64, 4, generator=torch.Generator().manual_seed(7))


def theirs(folder, *, scheduler=None, has_audio_encoder=False) -> Any:
    pipeline_class = diffusers.MusicLDMPipeline if has_audio_encoder else diffusers.AudioLDMPipeline
    pipeline: Any = pipeline_class.from_pretrained(folder)
    pipeline.scheduler = scheduler or pipeline.scheduler
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(folder, *, scheduler: Any = None) -> Any:
    scheduler = scheduler or DDIMScheduler.from_pretrained(folder / "scheduler")
    pipeline = ImageToAudioPipeline.from_audioldm(
        folder, scheduler=scheduler, torch_dtype=None, default_guidance_interval=(0.0, 1.0)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_same_audio(got: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.01, "near silence would equal anything"
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
@pytest.mark.parametrize("has_audio_encoder", [False, True], ids=["AudioLDM", "MusicLDM"])
def test_waveform_equals_diffusers_for_the_same_vectors(
    audioldm_folder, musicldm_folder, guidance_scale, has_audio_encoder
):
    folder = musicldm_folder if has_audio_encoder else audioldm_folder
    call = {
        "prompt_embeds": vectors(2, seed=0),
        "negative_prompt_embeds": vectors(2, seed=1),
        "latents": starting_noise(2),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "guidance_scale": guidance_scale,
        "output_type": "pt",
    }
    assert_same_audio(
        ours(folder)(**call).audios,
        theirs(folder, has_audio_encoder=has_audio_encoder)(**call).audios,
    )


@pytest.mark.parametrize(
    "scheduler_class",
    [DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler],
)
def test_waveform_equals_diffusers_with_any_scheduler(audioldm_folder, ddim, scheduler_class):
    call = {
        "prompt_embeds": vectors(1, seed=0),
        "negative_prompt_embeds": vectors(1, seed=1),
        "latents": starting_noise(1),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    scheduled = [scheduler_class.from_config(ddim.config) for _ in range(2)]
    expected = theirs(audioldm_folder, scheduler=scheduled[0])(**call).audios
    assert_same_audio(ours(audioldm_folder, scheduler=scheduled[1])(**call).audios, expected)


def test_default_negative_equals_the_empty_prompt_of_diffusers(audioldm_folder):
    call = {
        "prompt_embeds": vectors(2, seed=0),
        "latents": starting_noise(2),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    expected = theirs(audioldm_folder)(**call).audios
    pipeline = ours(audioldm_folder)
    assert_same_audio(pipeline(**call).audios, expected)
    assert (pipeline(**call, negative="zero").audios - expected).abs().max() > 1e-4


def test_words_equal_diffusers_with_the_same_words(audioldm_folder):
    call = {
        "prompt": ["a dog barks", "rain"],
        "negative_prompt": ["low quality", "noise"],
        "latents": starting_noise(2),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    assert_same_audio(ours(audioldm_folder)(**call).audios, theirs(audioldm_folder)(**call).audios)


@pytest.mark.parametrize("has_audio_encoder", [False, True], ids=["AudioLDM", "MusicLDM"])
def test_a_prompt_equals_its_own_clap_embedding(
    audioldm_folder, musicldm_folder, has_audio_encoder
):
    folder = musicldm_folder if has_audio_encoder else audioldm_folder
    pipeline = ours(folder)
    embeds = ClapEncoder.from_pretrained(folder).encode_text(["a dog barks", "rain"])
    call = {
        "latents": starting_noise(2),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    by_words = pipeline(prompt=["a dog barks", "rain"], **call)
    by_vectors = pipeline(prompt_embeds=embeds, **call)
    assert torch.allclose(by_words.audio_embeds, embeds, atol=1e-6)
    assert_same_audio(by_words.audios, by_vectors.audios)


def test_same_generator_in_a_list_draws_the_noise_of_diffusers(audioldm_folder):
    call = {
        "prompt_embeds": vectors(1, seed=0),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": STEPS,
        "output_type": "pt",
    }
    expected = theirs(audioldm_folder)(**call, generator=[torch.Generator().manual_seed(3)]).audios
    got = ours(audioldm_folder)(**call, generator=[torch.Generator().manual_seed(3)]).audios
    assert_same_audio(got, expected)
