"""Guidance of the sampler by similarity, with the demo decoder and with known gradients."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clip2clap import AudioToImagePipeline
from clip2clap.core.errors import UserError
from clip2clap.inference.painting.paint import Target
from clip2clap.inference.similarity_guidance import (
    GuidanceOptions,
    SimilarityGuidance,
    guided_prediction,
)

SEEDS = list(range(5))
OFF = {"clip_guidance_scale": 0}


@pytest.fixture(scope="module")
def pipe() -> AudioToImagePipeline:
    made = AudioToImagePipeline.from_pretrained("demo")
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def embeds(pipe) -> dict[str, Tensor]:
    words = ["dog", "fire"]
    found = pipe.encode_text([f"a photo of a {word}" for word in words])
    return dict(zip(words, found, strict=True))


def guidance(pipe, *targets: Target, **options) -> SimilarityGuidance:
    settings = {"iterations": 1, "cutouts": 1, "cut_size": 96, **options}
    return SimilarityGuidance(pipe.clip, targets, GuidanceOptions(**settings))


def generate(pipe, embeds, guide: SimilarityGuidance | None, seeds=SEEDS) -> Tensor:
    """Return pixels of images conditioned on no class in particular."""
    condition = F.normalize(embeds["dog"] + embeds["fire"], dim=0)
    return pipe(
        image_embeds=condition.expand(len(seeds), -1),
        guidance=guide,
        generator=list(seeds),
        num_inference_steps=5,
        output_type="pt",
        height=64,
        width=64,
        clip_guidance_scale=0,
    ).images


@pytest.fixture(scope="module")
def guided(pipe, embeds) -> dict[str, Tensor]:
    """Generate images of the same seeds towards each target."""
    return {
        name: generate(pipe, embeds, guidance(pipe, Target(target), strength=1.5))
        for name, target in embeds.items()
    }


def similarity(pipe, pixels: Tensor, target: Tensor) -> float:
    return float((pipe.clip.encode_pixels(pixels) @ target).mean())


def test_strength_0_is_the_plain_sampler_to_the_last_bit(pipe, embeds):
    plain = generate(pipe, embeds, None, [3])
    off = generate(pipe, embeds, guidance(pipe, Target(embeds["dog"]), strength=0), [3])
    assert torch.equal(plain, off)


def test_similarity_grows_with_strength_and_falls_with_a_negative_weight(pipe, embeds, guided):
    target = embeds["fire"]
    found = {"strong": similarity(pipe, guided["fire"], target)}
    for name, strength, weight in (("weak", 0.5, 1), ("away", 1.5, -1)):
        own = guidance(pipe, Target(target, weight), strength=strength)
        found[name] = similarity(pipe, generate(pipe, embeds, own), target)
    plain = similarity(pipe, generate(pipe, embeds, None), target)
    assert found["away"] < plain < found["weak"] < found["strong"]


def test_another_target_does_not_help_this_one(pipe, embeds, guided):
    for name, other in (("fire", "dog"), ("dog", "fire")):
        assert similarity(pipe, guided[name], embeds[name]) > similarity(
            pipe, guided[other], embeds[name]
        )


def test_each_image_of_the_demo_is_guided_to_its_own_embedding(pipe, embeds):
    own = torch.stack([embeds["dog"], embeds["fire"]]).repeat_interleave(2, 0)
    call = {"image_embeds": own, "generator": [0, 1, 2, 3], "output_type": "pt"}
    guided = pipe(**call).images
    plain = pipe(**call, clip_guidance_scale=0).images
    assert guided.shape == plain.shape == (4, 3, 128, 128)
    for rows, name, other in ((slice(2), "dog", "fire"), (slice(2, 4), "fire", "dog")):
        to_own = similarity(pipe, guided[rows], embeds[name])
        assert to_own > similarity(pipe, plain[rows], embeds[name]) + 0.05
        assert to_own > similarity(pipe, guided[rows], embeds[other]) + 0.2
    (alone,) = pipe(image_embeds=own[3:], generator=[3], output_type="pt").images
    assert (alone - guided[3]).abs().mean() < 0.1 * (guided[2] - guided[3]).abs().mean()


def test_a_large_image_is_a_small_one_enlarged_and_refined(pipe, embeds):
    call: dict[str, Any] = {"image_embeds": embeds["fire"][None], "clip_guidance_scale": 0}
    call |= {"generator": [3], "output_type": "pt"}
    small = pipe(**call, height=64, width=64).images
    refined = pipe(**call).images
    direct = pipe(**call, refine_strength=0).images
    wide = pipe(**call, height=64, width=128).images
    assert wide.shape == (1, 3, 64, 128)

    def alike(images: Tensor) -> float:
        pair = torch.stack([F.avg_pool2d(images, 16).flatten(), F.avg_pool2d(small, 8).flatten()])
        return float(pair.corrcoef()[0, 1])

    assert alike(refined) > 0.9
    assert alike(direct) < 0.7
    # Given noise has the size of the image.
    latents = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(0))
    call |= {"latents": latents, "generator": None}
    assert torch.equal(pipe(**call).images, pipe(**call, refine_strength=0).images)


def test_schedulers_of_other_variances_generate_unguided_unless_guidance_is_asked_for(pipe, embeds):
    usual = pipe.scheduler
    pipe.scheduler = EulerDiscreteScheduler.from_config(usual.config)
    try:
        call = {"image_embeds": embeds["dog"][None], "num_inference_steps": 3, "output_type": "pt"}
        own, plain = (pipe(**call, generator=[1], **more).images for more in ({}, OFF))
        assert torch.equal(own, plain)
        with pytest.raises(UserError, match="unit variance"):
            pipe(**call, clip_guidance_scale=1)
    finally:
        pipe.scheduler = usual


def test_guidance_by_clip_needs_a_clip(decoder):
    decoder.register_modules(clip=None)
    embeds = F.normalize(torch.ones(1, decoder.embed_dim), dim=1)
    assert len(decoder(image_embeds=embeds, num_inference_steps=1).images) == 1
    with pytest.raises(UserError, match="needs the decoder's own CLIP") as caught:
        decoder(image_embeds=embeds, clip_guidance_scale=1.0)
    assert caught.value.param == "clip_guidance_scale"
    with pytest.raises(UserError, match="clip_guidance_scale"):
        decoder(image_embeds=embeds, clip_guidance_scale=-1)


def test_a_seed_gives_the_same_image_in_any_batch(pipe, embeds):
    own = guidance(pipe, Target(embeds["fire"]), cutouts=2)
    other, both = generate(pipe, embeds, own, [1, 2])
    (alone,) = generate(pipe, embeds, own, [2])
    # Gradients of cutouts amplify what kernels round differently in a batch, at single pixels.
    assert (both - alone).abs().mean() < 0.05 * (other - alone).abs().mean()


def test_guidance_outside_its_range_of_steps_changes_nothing(pipe, embeds):
    late = generate(pipe, embeds, guidance(pipe, Target(embeds["fire"]), start=0.8), [1])
    never = guidance(pipe, Target(embeds["fire"]), start=0.99)
    assert list(never.steps(5)) == []
    assert torch.equal(generate(pipe, embeds, never, [1]), generate(pipe, embeds, None, [1]))
    assert not torch.equal(late, generate(pipe, embeds, None, [1]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_prediction_is_that_of_the_moved_latents(kind):
    scheduler = DDIMScheduler(prediction_type=kind, clip_sample=False)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 2, 3, 3, generator=generator)
    timestep = torch.tensor(400)
    alpha = scheduler.alphas_cumprod[400].sqrt()
    sigma = (1 - scheduler.alphas_cumprod[400]).sqrt()
    latents = alpha * clean + sigma * noise
    outputs = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}

    def moved(found: Tensor) -> Tensor:
        assert torch.allclose(found, clean, atol=1e-4)
        return found + 1

    predicted = guided_prediction(scheduler, outputs[kind], timestep, latents, moved)
    scheduler.set_timesteps(10)
    step: Any = scheduler.step(predicted, 400, latents)
    assert torch.allclose(step.pred_original_sample, clean + 1, atol=1e-4)


def test_a_step_is_along_the_gradient_and_of_the_strengths_length():
    class Plane:
        """Encoder of two values of a pixel, whose gradient is known."""

        def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
            means = pixel_values.mean(dim=(2, 3))[:, :2]
            return F.normalize(means, dim=1)

    target = Target(torch.tensor([1.0, 0.0]))
    options = GuidanceOptions(strength=2, iterations=1, cutouts=1)
    own = SimilarityGuidance(Plane(), [target], options)
    clean = torch.full((1, 3, 4, 4), 0.5)
    moved = own(clean, lambda latents: latents, [torch.Generator()], torch.zeros(1, 2))
    change = (moved - clean).mean(dim=(2, 3))[0]
    assert change[0] > 0 > change[1]
    assert change[2] == 0
    assert (moved - clean).square().mean().sqrt() == pytest.approx(0.08, rel=1e-3)


def test_the_distance_from_the_initial_image_holds_a_step_back():
    class Gray:
        """Encoder of two values of a pixel."""

        def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
            means = pixel_values.mean(dim=(2, 3))[:, :2]
            return F.normalize(means, dim=1)

    def distance(images: Tensor, others: Tensor) -> Tensor:
        return (images - others).square().mean(dim=(1, 2, 3))

    target = Target(torch.tensor([1.0, 0.0]))
    start = Image.new("RGB", (4, 4), (0, 255, 0))
    found = {}
    for scale in (0.0, 100.0):
        options = GuidanceOptions(iterations=1, cutouts=1, init_scale=scale)
        own = SimilarityGuidance(Gray(), [target], options, init=start, perceptual=distance)
        clean = torch.full((1, 3, 4, 4), 0.5)
        moved = own(clean, lambda latents: latents, [torch.Generator()], torch.zeros(1, 2))
        found[scale] = (moved - clean).mean(dim=(2, 3))[0]
    assert found[0.0][0] > 0 > found[0.0][1]
    assert found[100.0][0] < 0 < found[100.0][1]
    with pytest.raises(UserError, match="perceptual distance"):
        SimilarityGuidance(Gray(), [target], GuidanceOptions(init_scale=1))


def test_a_scheduler_of_growing_variance_is_refused(pipe, embeds):
    scheduler = EulerDiscreteScheduler()
    with pytest.raises(UserError, match="unit variance"):
        guided_prediction(scheduler, torch.zeros(1), torch.tensor(1), torch.zeros(1), lambda x: x)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "at least one target"),
        ([(1.0, 0.0)], "at least one target"),
        ([(float("nan"), 1.0)], "unit vector"),
        ([(1.0, float("inf"))], "weight"),
        ([(2.0, 1.0)], "unit vector"),
        ([(1.0, 1.0), (1.0, -0.5)], "'it' and 'it' are the same"),
    ],
)
def test_targets_that_make_no_sense_are_refused(pipe, targets, message):
    made = [Target(torch.tensor([value, 0.0]), weight, "it") for value, weight in targets]
    with pytest.raises(UserError, match=message):
        SimilarityGuidance(pipe.clip, made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1}, "strength"),
        ({"start": 0.5, "end": 0.5}, "start"),
        ({"iterations": 0}, "iterations"),
        ({"cutouts": 0}, "cutouts"),
        ({"range_scale": -1}, "range_scale"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=f"Expected {message}"):
        GuidanceOptions(**options)


def test_the_call_takes_nothing_else_as_guidance(pipe, embeds):
    with pytest.raises(UserError, match="a SimilarityGuidance"):
        pipe(image_embeds=embeds["dog"][None], guidance=3.0)
