"""A seed gives the same audio in any batch."""

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
)

from clip2clap.inference.noise import spread_generators

from .builders import FAST, colored_images, seeded


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("num_candidates", [1, 2])
def test_a_seed_gives_the_same_audio_in_batches_of_any_size(
    pipe_with_audio_encoder, algorithm, num_candidates
):
    pipe_with_audio_encoder.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe_with_audio_encoder.scheduler.config, algorithm_type=algorithm
    )
    whole, *others = (
        pipe_with_audio_encoder(
            colored_images(5),
            generator=seeded(),
            batch_size=size,
            num_candidates=num_candidates,
            **FAST,
        ).audios
        for size in (10, 1, 2, 3)
    )
    assert (whole[0] - whole[1]).abs().max() > 0.01
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)


def test_noise_is_the_same_bits_for_any_number_of_items_and_candidates():
    def draws(count, candidates):
        spread = spread_generators(seeded(), count, candidates)
        return [torch.randn(1, 2, 3, 4, generator=own) for own in spread]

    many = draws(5, 3)
    assert len({tuple(noise.flatten().tolist()) for noise in many}) == 15
    assert all(torch.equal(a, b) for a, b in zip(draws(2, 3), many[:6], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(draws(5, 1), many[::3], strict=True))


def test_with_a_list_of_generators_an_item_is_the_same_in_any_company(pipe):
    images = colored_images(3)
    together = pipe(images, generator=[seeded(4), seeded(5), seeded(6)], **FAST).audios
    alone = pipe(images[1], generator=[seeded(5)], **FAST).audios
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_a_single_generator_is_that_of_the_first_item_as_in_diffusers(
    pipe_with_audio_encoder, num_candidates
):
    def generate(count, generator):
        options = {"num_candidates": num_candidates, **FAST}
        images = colored_images(count)
        return pipe_with_audio_encoder(images, generator=generator, **options).audios

    expected = generate(1, [seeded(5)])
    assert torch.equal(generate(1, seeded(5)), expected)
    assert torch.equal(generate(1, 5), expected)
    first = generate(3, seeded(5))[:1]
    torch.testing.assert_close(first, expected, atol=1e-5, rtol=0)
    again = seeded(5)
    generate(1, again)
    assert not torch.equal(generate(1, again), expected)


def test_without_a_generator_torchs_global_seed_decides(pipe):
    audios = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        audios.append(pipe(colored_images(1), **FAST).audios)
    assert torch.equal(audios[0], audios[1])
    assert not torch.equal(audios[0], audios[2])
