"""Arguments as users of diffusers pass them, and outputs that are not finite."""

from typing import Any

import numpy as np
import pytest
import torch

from clip2clap.core.errors import CheckpointError, UserError
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline

from .builders import FAST, SECONDS, colored_images, joined, seeded, unit_vectors


def test_numpy_numbers_and_arrays_equal_python_s(pipe):
    call = {"generator": seeded(), "guidance_scale": 3.0, "guidance_interval": (0.0, 0.5)}
    expected = pipe(prompt_embeds=unit_vectors(1), **call, **FAST).audios
    got = pipe(
        prompt_embeds=unit_vectors(1).numpy(),
        generator=seeded(),
        num_inference_steps=np.int64(3),
        audio_length_in_s=np.float64(SECONDS),
        guidance_scale=np.float32(3),
        guidance_interval=np.array([0.0, 0.5]),
        num_candidates=np.uint8(1),
        batch_size=np.int16(2),
        output_type="pt",
    ).audios
    assert torch.equal(got, expected)


def test_an_integer_is_the_seed_of_a_generator(pipe, decoder):
    call = {"prompt_embeds": unit_vectors(2), **FAST}
    expected = pipe(**call, generator=seeded(5)).audios
    assert torch.equal(pipe(**call, generator=np.int64(5)).audios, expected)
    expected = pipe(**call, generator=[seeded(5), seeded(6)]).audios
    assert torch.equal(pipe(**call, generator=[5, 6]).audios, expected)
    call = {"image_embeds": torch.eye(12)[:1], "output_type": "pt"}
    assert torch.equal(
        decoder(**call, generator=5).images, decoder(**call, generator=seeded(5)).images
    )
    for wrong in (-1, 2**64, True, 1.5, "5", [5, None, "6"]):
        with pytest.raises(UserError, match="generator"):
            pipe(prompt_embeds=unit_vectors(1), generator=wrong, **FAST)


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("num_waveforms_per_prompt", "Use num_variations"),
        ("num_images_per_prompt", "Use num_candidates"),
        ("callback", "Use callback_on_step_end"),
        ("num_inference_step", "Did you mean num_inference_steps?"),
        ("zzz", "Known: "),
    ],
)
def test_an_argument_that_a_call_lacks_is_refused_with_what_to_use(pipe, decoder, argument, advice):
    for pipeline in (pipe, decoder):
        with pytest.raises(UserError, match=f"has no {argument}. {advice}") as refusal:
            pipeline(**{argument: 1})
        assert refusal.value.param == argument


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("device_map", r"\.to\(device\)"),
        ("low_cpu_mem_usage", "Leave it out"),
        ("subfolder", "the folder itself"),
        ("dtype", "Use torch_dtype"),
        ("varant", "Did you mean variant?"),
    ],
)
def test_an_option_that_loading_lacks_is_refused_with_what_to_use(argument, advice):
    classes: Any = (ImageToAudioPipeline, AudioToImagePipeline)
    for pipeline_class in classes:
        with pytest.raises(UserError, match=f"has no {argument}. .*{advice}"):
            pipeline_class.from_pretrained("demo", **{argument: "x"})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"latents": np.ones(3)}, "Expected latents of shape"),
        ({"latents": "noise"}, "Expected latents of shape"),
        ({"latents": torch.full((1, 4, 64, 4), torch.nan)}, "latents holds values"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"guidance_scale": 10**400}, "guidance_scale"),
        ({"audio_length_in_s": 1e12}, "audio_length_in_s"),
        ({"callback_on_step_end": "print"}, "callable"),
    ],
)
def test_values_of_odd_types_and_sizes_are_refused(pipe, call, message):
    with pytest.raises(UserError, match=message):
        pipe(prompt_embeds=unit_vectors(1), **{**FAST, **call})


@pytest.mark.parametrize("length", [0, -1, float("nan"), 1e9, "all"])
def test_the_length_of_an_excerpt_is_named_as_the_call_names_it(decoder, length):
    audio = np.ones(800, np.float32), 16_000
    with pytest.raises(UserError, match="audio_length_in_s to be above 0 and at most 1800 seconds"):
        decoder(audio, audio_length_in_s=length)


def test_output_that_is_not_finite_is_refused_with_its_cause(pipe, monkeypatch):
    call = {"prompt_embeds": unit_vectors(1), **FAST}
    with monkeypatch.context() as patch:
        patch.setattr(pipe.unet, "forward", lambda latents, *_, **__: (latents * torch.inf,))
        with pytest.raises(UserError, match=r"guidance_scale=1000\. Use a smaller one"):
            pipe(**call, guidance_scale=1000)
    weight = next(pipe.unet.parameters())
    kept = weight.detach().clone()
    try:
        weight.data[0] = torch.nan
        with pytest.raises(CheckpointError, match="weights of the unet are not finite") as refusal:
            pipe(**call)
        assert "float16" not in str(refusal.value)
    finally:
        weight.data.copy_(kept)


def test_a_translator_with_damaged_weights_is_named(pipe):
    translator = type(pipe.translator)(12, 16, hidden_size=16)
    translator.load_state_dict(pipe.translator.state_dict())
    next(translator.parameters()).data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="translator returned values that are not finite"):
        joined(pipe, translator=translator)(colored_images(1), **FAST)


def test_the_default_dtype_of_torch_changes_nothing(pipe, decoder):
    def run():
        audios = pipe(colored_images(1), negative="zero", generator=seeded(), **FAST).audios
        image = {"image": colored_images(1)[0], "prompt": "a dog", "generator": seeded()}
        images = decoder(
            image_embeds=torch.eye(12, dtype=torch.float32)[:1], output_type="pt", **image
        ).images
        return audios, images

    expected = run()
    torch.set_default_dtype(torch.float64)
    try:
        got = run()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
