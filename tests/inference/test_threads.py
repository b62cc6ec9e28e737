"""Calls from several threads: they do not disturb each other, and can be interrupted."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from clip2clap.core.errors import InterruptedCallError

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


@pytest.fixture(params=["pipe", "decoder"])
def call(request):
    """Return a pipeline of either direction, and a call of it."""
    pipeline = request.getfixturevalue(request.param)
    if request.param == "pipe":
        inputs = {"prompt_embeds": unit_vectors(2), "audio_length_in_s": SECONDS}
    else:
        inputs = {"image_embeds": torch.eye(12)[:2]}

    def run(**options):
        output = pipeline(**inputs, generator=0, output_type="pt", return_dict=False, **options)
        return output[0]

    return pipeline, run


def test_interrupt_stops_all_running_calls_after_their_step_and_none_made_later(call):
    pipeline, run = call
    expected = run(num_inference_steps=3)
    both, stopped, steps = threading.Barrier(3), threading.Event(), []

    def wait(pipeline, index, timestep, tensors):
        both.wait()
        stopped.wait()
        steps.append(index)
        return {}

    with ThreadPoolExecutor(2) as pool:
        options = {"num_inference_steps": 50, "batch_size": 1, "callback_on_step_end": wait}
        running = [pool.submit(run, **options) for _ in range(2)]
        both.wait()
        pipeline.interrupt()
        stopped.set()
        for each in running:
            with pytest.raises(InterruptedCallError):
                each.result()
    assert steps == [0, 0]
    assert torch.equal(run(num_inference_steps=3), expected)


@pytest.mark.parametrize("as_in_diffusers", [False, True])
def test_a_callback_interrupts_its_own_call(call, as_in_diffusers):
    steps = []

    def stop(pipeline, index, timestep, tensors):
        steps.append(index)
        if index == 1:
            if as_in_diffusers:
                pipeline._interrupt = True
            else:
                pipeline.interrupt()
        return {}

    with pytest.raises(InterruptedCallError):
        call[1](num_inference_steps=10, callback_on_step_end=stop)
    assert steps == [0, 1]
    call[0]._interrupt = False
    assert len(call[1](num_inference_steps=2)) == 2
