"""Schedulers of the pipelines."""

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler

from clip2clap.core.errors import UserError
from clip2clap.inference.schedulers import few_step_scheduler, replace_solver

from .builders import FAST, SECONDS, colored_images, seeded, unit_vectors

# Those that docs/concepts/generation.md names.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def test_few_step_scheduler_keeps_the_noise_schedule_and_the_prediction_type(ddim):
    original: Any = DDIMScheduler.from_config(ddim.config, prediction_type="v_prediction")
    solver: Any = few_step_scheduler(original)
    assert torch.equal(solver.alphas_cumprod, original.alphas_cumprod)
    assert solver.config.prediction_type == "v_prediction"
    solver.set_timesteps(10)
    assert solver.timesteps[0] == 999
    assert solver.sigmas[-1] == 0


def test_the_few_step_scheduler_comes_closer_than_ddim_to_many_steps(pipe, ddim):
    def audio(scheduler, steps):
        pipe.scheduler = scheduler
        return pipe(
            prompt_embeds=unit_vectors(2),
            latents=torch.randn(2, 4, 64, 4, generator=seeded()),
            audio_length_in_s=SECONDS,
            num_inference_steps=steps,
            output_type="pt",
        ).audios

    spaced = DDIMScheduler.from_config(ddim.config, timestep_spacing="linspace")
    solver = few_step_scheduler(ddim.config)
    many = audio(spaced, 200)
    assert (audio(solver, 20) - many).std() < (audio(spaced, 20) - many).std()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_of_diffusers_generates_in_both_directions(pipe, decoder, name):
    ours: Any = few_step_scheduler(DDIMScheduler(), algorithm_type="sde-dpmsolver++")
    pipe.scheduler = decoder.scheduler = replace_solver(ours, getattr(diffusers, name))
    call = {"num_inference_steps": 5, "generator": 0, "output_type": "pt"}
    audios = pipe(prompt_embeds=unit_vectors(2), audio_length_in_s=SECONDS, **call).audios
    assert audios.isfinite().all()
    assert audios.std() > 0
    embeds = torch.eye(12)[:2]
    whole = decoder(image_embeds=embeds, **call).images
    started = decoder(image_embeds=embeds, image=colored_images(1), **call).images
    assert (whole - started).abs().max() > 1e-3


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchEulerDiscreteScheduler",
        "KarrasVeScheduler",
        "RePaintScheduler",
        "ScoreSdeVeScheduler",
        "DDPMWuerstchenScheduler",
    ],
)
def test_a_scheduler_of_other_models_is_named(pipe, name):
    pipe.scheduler = getattr(diffusers, name)()
    with pytest.raises(UserError, match=f"{name} does not fit the pipeline"):
        pipe(prompt_embeds=unit_vectors(1), **FAST)


def test_a_number_of_steps_that_a_solver_lacks_is_refused(pipe, ddim):
    pipe.scheduler = diffusers.PNDMScheduler.from_config(ddim.config)
    with pytest.raises(UserError, match="PNDMScheduler does not fit the pipeline with 2 steps"):
        pipe(prompt_embeds=unit_vectors(1), **{**FAST, "num_inference_steps": 2})
