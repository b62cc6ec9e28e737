"""Classifier-free guidance of the image-to-audio pipeline."""

import logging

import torch

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding

from .builders import FAST, SECONDS, seeded, unit_vectors


def test_without_guidance_the_negative_embedding_does_not_matter(pipe):
    def audio(**options):
        return pipe(prompt_embeds=unit_vectors(1), generator=seeded(), **options, **FAST).audios

    plain = audio(guidance_scale=1.0)
    assert torch.equal(plain, audio(guidance_scale=1.0, negative="zero"))
    assert not torch.equal(plain, audio(guidance_scale=2.5, negative="zero"))


def test_guidance_away_from_the_embedding_itself_changes_nothing(pipe):
    call = {"prompt_embeds": unit_vectors(2), **FAST}
    guided = pipe(
        **call, generator=seeded(), negative_prompt_embeds=unit_vectors(2), guidance_scale=4.0
    )
    plain = pipe(**call, generator=seeded(), guidance_scale=1.0)
    torch.testing.assert_close(guided.audios, plain.audios, atol=1e-5, rtol=0)


def test_negative_embedding_comes_from_where_it_is_asked_for(pipe):
    learned = unit_vectors(1, seed=5)[0]
    pipe.negative_embedding = LearnedNegativeEmbedding.from_vector(learned)
    empty = ClapEncoder.from_pretrained(pipe.config.clap_id).encode_text([""])
    words = ClapEncoder.from_pretrained(pipe.config.clap_id).encode_text(["hiss"])
    for choice, expected in (
        ({}, learned),
        ({"negative": "learned"}, learned),
        ({"negative": "zero"}, torch.zeros(16)),
        ({"negative": "prompt"}, empty),
        ({"negative_prompt": "hiss"}, words),
    ):
        call = {"prompt_embeds": unit_vectors(2), **FAST}
        chosen = pipe(**call, generator=seeded(), **choice).audios
        given = pipe(
            **call, generator=seeded(), negative_prompt_embeds=torch.atleast_2d(expected)
        ).audios
        assert torch.equal(chosen, given), choice


def test_negative_is_the_empty_prompt_where_the_text_encoder_is_on_disk(pipe, caplog):
    call = {"prompt_embeds": unit_vectors(1), **FAST}
    pipe.negative_embedding = None
    expected = pipe(**call, generator=seeded(), negative="prompt").audios
    assert torch.equal(pipe(**call, generator=seeded()).audios, expected)

    pipe.generator_clap.text_embeds.clear()
    pipe.register_to_config(clap_id=str(pipe.config.clap_id) + "-gone")
    zero = pipe(**call, generator=seeded(), negative="zero").audios
    with caplog.at_level(logging.INFO, logger="clip2clap"):
        assert torch.equal(pipe(**call, generator=seeded()).audios, zero)
    assert "zero vector" in caplog.text


def test_guidance_that_has_ended_halves_the_batch_of_the_unet(pipe, monkeypatch):
    rows = []
    forward = pipe.unet.forward

    def counting(sample, *args, **kwargs):
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", counting)
    call = {
        "prompt_embeds": unit_vectors(3),
        "audio_length_in_s": SECONDS,
        "num_inference_steps": 5,
    }
    pipe(**call, guidance_interval=(0.0, 0.6))
    assert rows == [6, 6, 6, 3, 3]

    never = pipe(**call, guidance_interval=(0.0, 0.0), generator=seeded(), output_type="pt").audios
    plain = pipe(**call, guidance_scale=1.0, generator=seeded(), output_type="pt").audios
    assert torch.equal(never, plain)

    pipe.register_to_config(default_guidance_interval=(0.0, 0.2))
    rows.clear()
    pipe(**call)
    assert rows == [6, 3, 3, 3, 3]
