"""Schedulers of the pipelines."""

from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
)

from clip2clap.inference.schedulers import few_step_scheduler

from .builders import SECONDS, seeded, unit_vectors


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
