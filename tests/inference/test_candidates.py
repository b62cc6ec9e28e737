"""Ranking of candidates."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.models.spectral_vocoder import SpectralVocoder
from clip2clap.translator.prior import PriorTranslator

from .builders import FAST, SECONDS, colored_images, joined, make_translator, seeded, unit_vectors


def test_the_best_by_a_rigged_ranker_is_kept(pipe_with_audio_encoder, monkeypatch):
    favorites = [2, 0, 1]

    class Rigged:
        backend = SimpleNamespace(window=16_000, sampling_rate=16_000)

        def to(self, device):
            return self

        def encode_audio(self, audios):
            embeds = -targets.repeat_interleave(3, dim=0)
            for item, favorite in enumerate(favorites):
                embeds[3 * item + favorite] *= -1
            return embeds

    targets = unit_vectors(3)
    monkeypatch.setattr(pipe_with_audio_encoder.generator_clap, "audio_encoder", Rigged())
    noise = torch.randn(9, 4, 64, 4, generator=seeded())
    kept = pipe_with_audio_encoder(prompt_embeds=targets, latents=noise, num_candidates=3, **FAST)
    expected = pipe_with_audio_encoder(
        prompt_embeds=targets, latents=noise[[2, 3, 7]], num_candidates=1, **FAST
    )
    torch.testing.assert_close(kept.audios, expected.audios, atol=1e-5, rtol=0)
    assert kept.similarities.argmax(dim=1).tolist() == favorites
    assert expected.similarities is None


def test_the_generator_clap_keeps_the_most_similar_candidate(pipe_with_audio_encoder):
    call = {"generator": seeded(), "audio_length_in_s": SECONDS, "num_inference_steps": 3}
    best = pipe_with_audio_encoder(colored_images(2), num_candidates=4, **call)
    ranker = ClapEncoder.from_pretrained(pipe_with_audio_encoder.config.clap_id)
    encoded = ranker.encode_audio([(audio, best.sampling_rate) for audio in best.audios])
    similarities = (encoded * best.audio_embeds).sum(dim=-1)
    torch.testing.assert_close(similarities, best.similarities.max(dim=1).values)
    assert best.similarities.shape == (2, 4)


def test_variations_are_the_candidates_in_the_order_of_their_similarity(pipe_with_audio_encoder):
    call = {"audio_length_in_s": SECONDS, "num_inference_steps": 3, "num_candidates": 4}
    pipe, images = pipe_with_audio_encoder, colored_images(2)
    best = pipe(images, generator=[1, 2], **call)
    two = pipe(images, generator=[1, 2], num_variations=2, **call)
    every = pipe(images, generator=[1, 2], num_variations=4, **call)
    order = every.similarities.argsort(dim=1, descending=True)
    ranked = pipe.rank(every.audios, best.audio_embeds)[1]
    torch.testing.assert_close(ranked, every.similarities.gather(1, order))
    audios = every.audios.reshape(2, 4, -1)
    assert (two.audios.reshape(2, 2, -1) == audios[:, :2]).all()
    assert (best.audios == audios[:, 0]).all()
    assert len(every.audio_embeds) == 8
    for wrong in (0, 5, 1.5):
        with pytest.raises(UserError, match=r"num_variations.* from 1 to num_candidates=4"):
            pipe(images, num_variations=wrong, **call)


def test_drafts_are_ranked_and_only_what_is_kept_is_vocoded_in_full(
    pipe_with_audio_encoder, monkeypatch
):
    config = pipe_with_audio_encoder.vocoder.config
    torch.manual_seed(0)
    hop = math.prod(config.upsample_rates)
    vocoder = SpectralVocoder(config.model_in_dim, config.sampling_rate, (hop,), 4 * hop, 8, 1)
    pipe = joined(pipe_with_audio_encoder, vocoder=vocoder.eval())
    call = {"generator": [1, 2], "num_candidates": 3, **FAST}
    every = pipe(colored_images(2), num_variations=3, **call)
    calls = []
    forward = vocoder.forward

    def spy(mels, **options):
        calls.append((len(mels), options))
        return forward(mels, **options)

    monkeypatch.setattr(vocoder, "forward", spy)
    best = pipe(colored_images(2), **call)
    assert calls == [(6, {"iterations": 2}), (2, {})]
    calls.clear()
    whole = pipe(colored_images(2), draft_candidates=False, **call)
    assert calls == [(6, {})]
    torch.testing.assert_close(whole.similarities, every.similarities)
    # In the order of their similarities.
    places = every.similarities.argsort(dim=1, descending=True).argsort(dim=1)
    chosen = places.gather(1, best.similarities.argmax(dim=1, keepdim=True))[:, 0]
    audios = every.audios.view(2, 3, -1)[torch.arange(2), chosen]
    torch.testing.assert_close(best.audios, audios, atol=1e-4, rtol=0)
    drafts = best.similarities - every.similarities
    assert 0 < drafts.abs().max() < 0.5
    with pytest.raises(UserError, match="is a SpeechT5HifiGan"):
        pipe_with_audio_encoder(colored_images(1), draft_candidates=True, **FAST)


def test_a_waveform_a_little_longer_than_the_window_of_the_clap_is_ranked_by_one_window(
    pipe_with_audio_encoder, monkeypatch
):
    encoder = pipe_with_audio_encoder.generator_clap.load_audio_encoder()
    window, rate = encoder.backend.window, encoder.backend.sampling_rate
    lengths = []
    encode = encoder.encode_audio
    monkeypatch.setattr(
        encoder, "encode_audio", lambda audios: lengths.append(len(audios[0][0])) or encode(audios)
    )
    monkeypatch.setattr(type(pipe_with_audio_encoder), "sampling_rate", rate)
    for share in (0.5, 1.04, 1.06, 2.04):
        pipe_with_audio_encoder.rank(torch.randn(1, round(share * window)), unit_vectors(1))
    assert lengths == [round(0.5 * window), window, round(1.06 * window), 2 * window]


def test_a_prior_gives_every_candidate_and_every_seed_an_embedding_of_its_own(
    pipe_with_audio_encoder,
):
    translator = pipe_with_audio_encoder.translator
    prior = PriorTranslator(12, 16, hidden_size=8, provenance=translator.provenance).eval()
    prior.initialize(seeded(3))
    pipe = joined(pipe_with_audio_encoder, translator=prior)
    used = []
    options = {
        "callback_on_step_end": lambda pipe, step, time, tensors: used.append(tensors) or {},
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
        "guidance_scale": 1.0,
        **FAST,
    }
    once = pipe(colored_images(2), generator=seeded(), **options).audio_embeds
    assert torch.equal(pipe(colored_images(2), generator=seeded(), **options).audio_embeds, once)
    other = pipe(colored_images(2), generator=seeded(1), **options).audio_embeds
    assert not torch.allclose(once, other, atol=1e-2)

    used.clear()
    several = pipe(colored_images(2), num_candidates=3, generator=seeded(), **options)
    drawn = used[0]["prompt_embeds"].view(2, 3, 16)
    torch.testing.assert_close(drawn[:, 0], once)
    assert (drawn[:, 0] - drawn[:, 1]).abs().amax() > 1e-2
    best = several.similarities.argmax(1)
    assert torch.equal(several.audio_embeds, drawn[torch.arange(2), best])


def test_candidates_are_refused_without_an_audio_encoder(pipe):
    with pytest.raises(UserError, match=r"text, not audio.*ranker_translator="):
        pipe(colored_images(1), num_candidates=2, **FAST)


def test_a_separate_ranker_ranks_in_its_own_space(pipe, clip_folder, foreign_folder):
    ranker = ClapEncoder.from_pretrained(foreign_folder)
    ranked = joined(pipe, ranker=ranker)
    with pytest.raises(UserError, match="ranker_translator"):
        ranked(colored_images(1), num_candidates=2, **FAST)
    with pytest.raises(UserError, match="can't be ranked"):
        ranked(prompt_embeds=unit_vectors(1), num_candidates=2, **FAST)
    with pytest.raises(SpaceMismatchError, match="ranker"):
        joined(ranked, ranker_translator=pipe.translator)

    ranker_translator = make_translator(clip_folder, foreign_folder, seed=4)
    ranked = joined(ranked, ranker_translator=ranker_translator)
    best = ranked(colored_images(2), num_candidates=3, generator=seeded(), **FAST)
    encoded = ranker.encode_audio([(audio, best.sampling_rate) for audio in best.audios])
    targets = ranker_translator(pipe.clip.encode_image(colored_images(2)))
    torch.testing.assert_close((encoded * targets).sum(dim=-1), best.similarities.max(dim=1).values)


def test_ranking_ignores_length_and_takes_the_first_of_equals(pipe):
    embeds = torch.tensor([[0.1, 5.0], [9.0, 0.0], [3.0, 0.0], *[[0.0, 1.0]] * 3])
    encoder: Any = nn.Module()
    encoder.encode_audio = lambda audios: embeds
    encoder.backend = SimpleNamespace(window=16_000, sampling_rate=16_000)
    pipe.generator_clap.audio_encoder = encoder
    targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    best, similarities = pipe.rank(torch.zeros(6, 8), targets)
    assert best.tolist() == [1, 0]
    torch.testing.assert_close(similarities[0, 1:], torch.ones(2))
    with pytest.raises(UserError, match=r"\(6, 2\) and \(4, 2\)"):
        pipe.rank(torch.zeros(6, 8), torch.zeros(4, 2))
