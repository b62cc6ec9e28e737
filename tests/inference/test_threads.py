"""Calls from several threads do not disturb each other."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from .builders import SECONDS, colored_images, unit_vectors

THREADS = 8


def outputs_in_threads(call):
    """Return the outputs of a call for each of several numbers, alone and at once."""
    alone = [call(number) for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        return alone, list(pool.map(call, range(THREADS)))


def test_threads_give_bit_for_bit_the_audio_of_single_calls(pipe):
    def call(number):
        source = (
            {"images": colored_images(2)}
            if number % 2
            else {"prompt_embeds": unit_vectors(2, seed=number)}
        )
        options = {"num_inference_steps": 2 + number, "guidance_scale": 1.0 + number / 2}
        return pipe(**source, **options, generator=number, audio_length_in_s=SECONDS).audios

    alone, together = outputs_in_threads(call)
    assert len({audios.tobytes() for audios in alone}) == THREADS
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_threads_give_bit_for_bit_the_images_of_single_calls(decoder):
    embeds = torch.nn.functional.normalize(torch.randn(THREADS, 12), dim=-1)

    def call(number):
        start = {"image": colored_images(1)[0], "strength": 0.7} if number % 2 else {}
        options = {"num_inference_steps": 4 + number, "guidance_scale": 1.0 + number / 2}
        return decoder(
            image_embeds=embeds[number], **start, **options, generator=number, output_type="pt"
        ).images

    alone, together = outputs_in_threads(call)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_a_call_leaves_the_pipeline_s_scheduler_as_it_was(pipe):
    before = pipe.scheduler.timesteps
    pipe(prompt_embeds=unit_vectors(1), num_inference_steps=3, audio_length_in_s=SECONDS)
    assert pipe.scheduler.timesteps is before
