"""Inputs, prompts and outputs of the image-to-audio pipeline."""

import gc
import weakref

import numpy as np
import pytest
import torch

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.media.images import UnreadableImageError

from .builders import FAST, SECONDS, colored_images, joined, seeded, unit_vectors


def test_an_unreadable_image_is_named_before_any_audio_is_made(pipe, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        pytest.fail("audio was made")

    monkeypatch.setattr(pipe.unet, "forward", refuse)
    (tmp_path / "notes.jpg").write_text("no image")
    images = [*colored_images(2), tmp_path / "notes.jpg"]
    with pytest.raises(UnreadableImageError, match=r"Image 3 of 3.*notes\.jpg"):
        pipe(images, **FAST)


def test_files_and_opened_images_give_the_same_audio(pipe, tmp_path):
    image = colored_images(1)[0]
    image.save(tmp_path / "red.png")
    by_file = pipe(tmp_path / "red.png", generator=seeded(), **FAST)
    by_image = pipe([image], generator=seeded(), **FAST)
    assert torch.equal(by_file.audios, by_image.audios)
    expected = pipe.translator(pipe.clip.encode_image([image]))
    assert torch.equal(by_file.audio_embeds, expected)


@pytest.mark.parametrize("seconds", [0.001, 0.0641, 0.1, 0.29])
def test_length_is_what_was_asked_for(pipe, seconds):
    call = {"num_inference_steps": 1, "audio_length_in_s": seconds}
    audios = pipe(prompt_embeds=unit_vectors(1), **call).audios
    assert audios.shape == (1, round(seconds * 16000))


def test_length_defaults_to_the_unets_own(pipe):
    assert pipe.default_audio_length_in_s == 32 * 2 * 8 / 16000
    assert pipe(prompt_embeds=unit_vectors(1), num_inference_steps=1).audios.shape == (1, 512)


def test_output_is_float32_in_the_form_asked_for(pipe):
    call = {
        "prompt_embeds": unit_vectors(2),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": 2,
    }
    array = pipe(**call, generator=seeded())
    tensor = pipe(**call, generator=seeded(), output_type="pt")
    as_tuple = pipe(**call, generator=seeded(), return_dict=False)
    assert array.audios.dtype == np.float32
    assert np.array_equal(array.audios, tensor.audios.numpy())
    assert np.array_equal(as_tuple[0], array.audios)
    assert array.sampling_rate == 16000


def test_callback_sees_every_step_and_may_change_the_latents(pipe):
    seen = []

    def silence(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    call = {"prompt_embeds": unit_vectors(2), **FAST}
    changed = pipe(
        **call,
        callback_on_step_end=silence,
        callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
    ).audios
    assert [step for step, _, _ in seen] == [0, 1, 2]
    assert [timestep for _, timestep, _ in seen] == [999, 666, 333]
    assert seen[0][2] == ["latents", "prompt_embeds"]
    expected = pipe.vocoder(pipe.vae.decode(torch.zeros(1, 4, 64, 4)).sample.squeeze(1))
    torch.testing.assert_close(changed, expected.detach().expand(2, -1)[:, :1024])


def test_audio_beyond_full_scale_is_made_quieter_and_the_others_are_not(pipe, monkeypatch):
    call = {"prompt_embeds": unit_vectors(2), **FAST}
    plain = pipe(**call, generator=seeded()).audios
    quiet, peaks = pipe.vocoder.forward, torch.tensor([[4.0], [0.5]])

    def loud(mel):
        audio = quiet(mel)
        return audio / audio.abs().amax(1, keepdim=True) * peaks

    monkeypatch.setattr(pipe.vocoder, "forward", loud)
    audios = pipe(**call, generator=seeded()).audios
    assert audios.abs().amax(1).max() <= 1
    # Only the level has changed.
    cosine = torch.nn.functional.cosine_similarity(audios, plain)
    torch.testing.assert_close(cosine, torch.ones(2))
    louder = pipe.vocoder(pipe.vae.decode(torch.zeros(2, 4, 64, 4)).sample.squeeze(1))
    assert louder.abs().amax(1).tolist() == pytest.approx([4.0, 0.5])


def test_the_pipelines_own_number_of_candidates_is_made_unless_another_is_given(
    pipe_with_audio_encoder,
):
    pipe_with_audio_encoder.register_to_config(default_num_candidates=3)
    call = {"prompt_embeds": unit_vectors(2), **FAST}
    assert pipe_with_audio_encoder(**call, generator=seeded()).similarities.shape == (2, 3)
    assert pipe_with_audio_encoder(**call, num_candidates=1).similarities is None
    # Noise that is given is what is to be encoded.
    noise = torch.randn(2, 4, 64, 4, generator=seeded())
    assert pipe_with_audio_encoder(**call, latents=noise).similarities is None


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ({}, "exactly one.*none"),
        ({"images": [], "prompt": "rain"}, "exactly one.*images and prompt"),
        ({"images": []}, "no images"),
        ({"prompt": [1]}, "prompt.*text"),
        ({"prompt_embeds": torch.zeros(2, 7)}, r"\(n, 16\).*\(2, 7\)"),
        ({"prompt_embeds": torch.full((1, 16), torch.nan)}, "not finite"),
        ({"prompt": "rain", "audio_length_in_s": 0.0}, "at least 0.001"),
        ({"prompt": "rain", "audio_length_in_s": float("nan")}, "at least 0.001"),
        ({"prompt": "rain", "num_inference_steps": 0}, "1 to 1000"),
        ({"prompt": "rain", "num_inference_steps": 2.5}, "1 to 1000"),
        ({"prompt": "rain", "guidance_scale": -1.0}, "guidance_scale"),
        ({"prompt": "rain", "guidance_interval": (0.0, 1.5)}, "guidance_interval"),
        ({"prompt": "rain", "eta": -0.1}, "eta"),
        ({"prompt": "rain", "num_candidates": 0}, "num_candidates"),
        ({"prompt": "rain", "batch_size": True}, "batch_size"),
        ({"prompt": "rain", "output_type": "wav"}, "output_type"),
        ({"prompt": "rain", "negative": "none"}, "auto, learned, prompt, zero"),
        ({"prompt": "rain", "negative": "zero", "negative_prompt": "hiss"}, "another embedding"),
        (
            {"prompt": "rain", "negative_prompt": "a", "negative_prompt_embeds": torch.zeros(16)},
            "not both",
        ),
        ({"prompt": ["a", "b", "c"], "negative_prompt": ["a", "b"]}, "each of the 3 items"),
        ({"prompt": ["a", "b"], "generator": [torch.Generator()]}, "each of the 2 items"),
        ({"prompt": "a", "generator": "7"}, "generator"),
        ({"prompt": ["a", "b"], "generator": [None, None]}, "Expected generator to be a torch"),
        ({"prompt": "rain", "latents": torch.zeros(1, 4, 3, 4)}, r"\(1, 4, 32, 4\)"),
        ({"prompt": "rain", "callback_on_step_end_tensor_inputs": ["noise"]}, "noise"),
    ],
)
def test_senseless_calls_are_refused_at_the_door(pipe, monkeypatch, call, complaint):
    monkeypatch.setattr(
        pipe.generator_clap, "encode_text", lambda texts: pytest.fail("work was done")
    )
    with pytest.raises(UserError, match=complaint):
        pipe(**call)


def test_a_pipeline_without_clip_takes_embeddings_and_refuses_images(pipe):
    pipeline = joined(pipe, clip=None, translator=None)
    assert pipeline(prompt_embeds=unit_vectors(2), **FAST).audios.shape == (2, 1024)
    with pytest.raises(UserError, match=r"clip=.*translator="):
        pipeline(colored_images(1))


def test_text_encoder_is_loaded_once_for_all_texts_and_freed(pipe, monkeypatch):
    loaded = []
    load = ClapEncoder.from_pretrained.__func__

    def remembering(cls, *args, **kwargs):
        encoder = load(cls, *args, **kwargs)
        loaded.append(weakref.ref(encoder))
        return encoder

    monkeypatch.setattr(ClapEncoder, "from_pretrained", classmethod(remembering))
    call = {"prompt": ["a dog barks", "rain"], "negative_prompt": "hiss", **FAST}
    pipe(**call)
    gc.collect()
    assert [encoder() for encoder in loaded] == [None]
    pipe(**call)
    assert len(loaded) == 1


def test_pipeline_holds_no_text_encoder(pipe):
    gc.collect()
    held = {
        type(module).__name__
        for part in pipe.components.values()
        if part is not None and isinstance(part, torch.nn.Module)
        for module in part.modules()
    }
    assert held
    assert not any(name.startswith("Clap") for name in held)


def test_texts_of_a_clap_that_was_replaced_on_disk_are_refused(pipe, foreign_folder):
    pipe.register_to_config(clap_id=str(foreign_folder))
    with pytest.raises(SpaceMismatchError):
        pipe(prompt="rain", **FAST)
