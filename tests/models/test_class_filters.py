"""Wiener filters of classes that are noises, alone and in a pipeline."""

import pytest
import torch
from torch.nn.functional import normalize

from clip2clap.core.errors import UserError
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.models.class_filters import ClassFilters

LABELS = torch.tensor([0, 0, 1, 1])
KNOWN = torch.eye(4)[:3]


@pytest.fixture
def latents():
    """A loud and a quiet class, each about a mean of its own."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 0.1])[LABELS].view(4, 1, 1, 1, 1)
    return LABELS.view(4, 1, 1, 1, 1) + scales * torch.randn(4, 2, 3, 64, 8, generator=generator)


def noised(latents, alpha_cumprod):
    """Return noisy latents and their velocities."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    signal, scale = alpha_cumprod.sqrt(), (1 - alpha_cumprod).sqrt()
    return signal * latents + scale * noise, signal * noise - scale * latents


@pytest.mark.parametrize("alpha_cumprod", [0.9, 0.2])
def test_the_filter_of_the_class_errs_least(latents, alpha_cumprod):
    level = torch.tensor(alpha_cumprod)
    noisy, velocity = noised(latents[:, 0], level)
    filters = ClassFilters.from_latents(latents, LABELS, KNOWN, [1, 0])
    own, other = (
        (filters(torch.zeros_like(noisy), noisy, 100, level, KNOWN[labels]) - velocity)[:, 1:]
        .square()
        .mean(dim=(1, 2, 3))
        for labels in (LABELS, 1 - LABELS)
    )
    variances = torch.tensor([1.0, 0.01])[LABELS]
    least = variances / (level * variances + 1 - level)
    torch.testing.assert_close(own, least, rtol=0.1, atol=0)
    assert (own < other).all()


def test_other_classes_first_components_and_high_noise_levels_stay(latents):
    filters = ClassFilters.from_latents(latents, LABELS, KNOWN, [1])
    level = torch.tensor(0.5)
    noisy, _ = noised(latents[:, 0], level)
    predicted = torch.randn(noisy.shape)
    filtered = filters(predicted, noisy, 549, level, KNOWN[LABELS])
    assert torch.equal(filtered[:2], predicted[:2])
    assert torch.equal(filtered[:, 0], predicted[:, 0])
    assert not (filtered[2:, 1:] == predicted[2:, 1:]).any()
    assert torch.equal(filters(predicted, noisy, 550, level, KNOWN[LABELS]), predicted)
    assert torch.equal(filters(predicted, noisy, 100, level, KNOWN[[2]].expand(4, -1)), predicted)


def test_filters_come_back_from_disk(tmp_path, latents):
    filters = ClassFilters.from_latents(latents, LABELS, KNOWN, [1, 0])
    filters.save_pretrained(tmp_path)
    again = ClassFilters.from_pretrained(tmp_path)
    inputs = (*noised(latents[:, 0], torch.tensor(0.5)), 10, torch.tensor(0.5), KNOWN[LABELS])
    assert torch.equal(again(*inputs), filters(*inputs))


def test_filters_that_make_no_sense_are_refused(latents):
    with pytest.raises(UserError, match="class 2, got none"):
        ClassFilters.from_latents(latents, LABELS, KNOWN, [2])
    with pytest.raises(UserError, match="filtered to be at most the 1 known"):
        ClassFilters(filtered=2)
    with pytest.raises(UserError, match="first_channel"):
        ClassFilters(channels=2, first_channel=2)


def test_the_demo_filters_the_sea_and_nothing_else():
    pipeline = ImageToAudioPipeline.from_pretrained("demo")
    pipeline.set_progress_bar_config(disable=True)
    filters = pipeline.class_filters
    assert filters is not None
    assert filters.config["filtered"] == 3
    embeds = filters.known.float()[[0, -1]]

    def generate():
        options = {"num_candidates": 1, "num_inference_steps": 4, "output_type": "pt"}
        return pipeline(prompt_embeds=normalize(embeds), generator=[1, 2], **options).audios

    with_filters = generate()
    pipeline.register_modules(class_filters=None)
    without = generate()
    assert not torch.allclose(with_filters[0], without[0])
    assert torch.equal(with_filters[1], without[1])
