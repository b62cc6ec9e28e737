import copy
import gc
import json
import logging
import shutil
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import normalize
from transformers import SpeechT5HifiGan

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.loading.components import part_dtypes
from clip2clap.inference.noise import spread_generators
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.media.images import UnreadableImageError
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.translator.metadata import Provenance
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.prior import PriorTranslator

SECONDS = 0.064
FAST = {"audio_length_in_s": SECONDS, "num_inference_steps": 3, "output_type": "pt"}
COLOURS = ("red", "blue", "white", "black", "green")


def photographs(count=3):
    return [Image.new("RGB", (40, 40), colour) for colour in COLOURS[:count]]


def vectors(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 16, generator=generator), dim=-1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_translator(clip_folder, clap_folder, *, seed=0):
    torch.manual_seed(seed)
    return MLPTranslator(
        source_dim=12,
        target_dim=16,
        hidden_size=16,
        provenance=Provenance(
            ClipEncoder.from_pretrained(clip_folder).space("image"),
            ClapEncoder.from_pretrained(clap_folder).space("text"),
        ),
    )


def load(generator_folder, clip_folder) -> Any:
    pipeline = ImageToAudioPipeline.from_audioldm(
        generator_folder,
        clip=clip_folder,
        translator=make_translator(clip_folder, generator_folder),
        torch_dtype=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def joined(pipeline, **parts) -> Any:
    """Make a pipeline of another's parts, some of them replaced."""
    components = {**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler), **parts}
    other = ImageToAudioPipeline(**components, **pipeline.parameters)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.fixture(scope="module")
def loaded(audioldm_folder, clip_folder):
    return load(audioldm_folder, clip_folder)


@pytest.fixture(scope="module")
def loaded_hearing(musicldm_folder, clip_folder):
    return load(musicldm_folder, clip_folder)


@pytest.fixture(scope="module")
def saved_once(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(loaded):
    return joined(loaded)


@pytest.fixture
def hearing_pipe(loaded_hearing):
    """A pipeline whose generator's own CLAP has an audio encoder, as MusicLDM's does."""
    return joined(loaded_hearing)


@pytest.fixture
def saved(saved_once, tmp_path):
    """A saved pipeline's folder, for the test to do with as it likes."""
    return shutil.copytree(saved_once, tmp_path / "saved")


@pytest.fixture
def no_loading_later(monkeypatch):
    """Give a function from whose call on any loading of weights fails the test."""

    def refuse(*args, **kwargs):
        pytest.fail("a model was loaded")

    def forbid():
        for model_class in (
            UNet2DConditionModel,
            AutoencoderKL,
            SpeechT5HifiGan,
            ClipEncoder,
            ClapEncoder,
            MLPTranslator,
        ):
            monkeypatch.setattr(model_class, "from_pretrained", refuse)

    return forbid


# Spaces


def test_translator_of_another_clap_is_refused_before_anything_is_loaded(
    audioldm_folder, foreign_folder, clip_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, audioldm_folder).save_pretrained(tmp_path)
    no_loading_later()
    with pytest.raises(SpaceMismatchError) as refusal:
        ImageToAudioPipeline.from_audioldm(foreign_folder, clip=clip_folder, translator=tmp_path)
    assert str(audioldm_folder) in str(refusal.value)
    assert str(foreign_folder) in str(refusal.value)


def test_translator_of_another_clip_is_refused_before_anything_is_loaded(
    audioldm_folder, clip_folder, foreign_clip_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, audioldm_folder).save_pretrained(tmp_path)
    no_loading_later()
    with pytest.raises(SpaceMismatchError) as refusal:
        ImageToAudioPipeline.from_audioldm(
            audioldm_folder, clip=foreign_clip_folder, translator=tmp_path
        )
    assert str(clip_folder) in str(refusal.value)
    assert str(foreign_clip_folder) in str(refusal.value)


def test_saved_pipeline_refuses_a_foreign_translator_before_anything_is_loaded(
    saved, clip_folder, foreign_folder, tmp_path, no_loading_later
):
    make_translator(clip_folder, foreign_folder).save_pretrained(tmp_path / "translator")
    no_loading_later()
    with pytest.raises(SpaceMismatchError, match="foreign"):
        ImageToAudioPipeline.from_pretrained(saved, translator=tmp_path / "translator")


def test_parts_made_for_different_encoders_are_not_joined_by_hand(
    pipe, clip_folder, foreign_folder
):
    with pytest.raises(SpaceMismatchError, match="foreign"):
        joined(pipe, translator=make_translator(clip_folder, foreign_folder))


def test_a_pipeline_of_another_architecture_is_refused(saved):
    index = json.loads((saved / "model_index.json").read_text())
    (saved / "model_index.json").write_text(json.dumps({**index, "_class_name": "AudioLDM2"}))
    for load_from in (ImageToAudioPipeline.from_audioldm, ImageToAudioPipeline.from_pretrained):
        with pytest.raises(CheckpointError, match=r"AudioLDM2.*AudioLDMPipeline"):
            load_from(saved)


# Seeds


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("num_candidates", [1, 2])
def test_a_seed_gives_the_same_sound_in_batches_of_any_size(
    hearing_pipe, algorithm, num_candidates
):
    hearing_pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        hearing_pipe.scheduler.config, algorithm_type=algorithm
    )
    whole, *others = (
        hearing_pipe(
            photographs(5),
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


def test_with_a_list_of_generators_an_item_sounds_the_same_in_any_company(pipe):
    images = photographs(3)
    together = pipe(images, generator=[seeded(4), seeded(5), seeded(6)], **FAST).audios
    alone = pipe(images[1], generator=[seeded(5)], **FAST).audios
    torch.testing.assert_close(alone[0], together[1], atol=1e-5, rtol=0)


def test_without_a_generator_torchs_global_seed_decides(pipe):
    sounds = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        sounds.append(pipe(photographs(1), **FAST).audios)
    assert torch.equal(sounds[0], sounds[1])
    assert not torch.equal(sounds[0], sounds[2])


# Guidance


def test_without_guidance_the_negative_vector_does_not_matter(pipe):
    def sound(**options):
        return pipe(prompt_embeds=vectors(1), generator=seeded(), **options, **FAST).audios

    plain = sound(guidance_scale=1.0)
    assert torch.equal(plain, sound(guidance_scale=1.0, negative="zero"))
    assert not torch.equal(plain, sound(guidance_scale=2.5, negative="zero"))


def test_guidance_away_from_the_vector_itself_changes_nothing(pipe):
    call = {"prompt_embeds": vectors(2), **FAST}
    guided = pipe(**call, generator=seeded(), negative_prompt_embeds=vectors(2), guidance_scale=4.0)
    plain = pipe(**call, generator=seeded(), guidance_scale=1.0)
    torch.testing.assert_close(guided.audios, plain.audios, atol=1e-5, rtol=0)


def test_negative_vector_comes_from_where_it_is_asked_for(pipe):
    learned = vectors(1, seed=5)[0]
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
        call = {"prompt_embeds": vectors(2), **FAST}
        chosen = pipe(**call, generator=seeded(), **choice).audios
        given = pipe(
            **call, generator=seeded(), negative_prompt_embeds=torch.atleast_2d(expected)
        ).audios
        assert torch.equal(chosen, given), choice


def test_negative_is_the_empty_prompt_where_the_text_encoder_is_on_disk(pipe, caplog):
    call = {"prompt_embeds": vectors(1), **FAST}
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
    call = {"prompt_embeds": vectors(3), "audio_length_in_s": SECONDS, "num_inference_steps": 5}
    pipe(**call, guidance_interval=(0.0, 0.6))
    assert rows == [6, 6, 6, 3, 3]

    never = pipe(**call, guidance_interval=(0.0, 0.0), generator=seeded(), output_type="pt").audios
    plain = pipe(**call, guidance_scale=1.0, generator=seeded(), output_type="pt").audios
    assert torch.equal(never, plain)

    pipe.register_to_config(default_guidance_interval=(0.0, 0.2))
    rows.clear()
    pipe(**call)
    assert rows == [6, 3, 3, 3, 3]


# Words


def test_text_encoder_is_loaded_once_for_all_words_and_freed(pipe, monkeypatch):
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


def test_words_of_a_clap_that_was_replaced_on_disk_are_refused(pipe, foreign_folder):
    pipe.register_to_config(clap_id=str(foreign_folder))
    with pytest.raises(SpaceMismatchError):
        pipe(prompt="rain", **FAST)


# Candidates


def test_the_best_by_a_rigged_ranker_is_kept(hearing_pipe, monkeypatch):
    favourites = [2, 0, 1]

    class Rigged:
        def to(self, device):
            return self

        def encode_audio(self, sounds):
            embeds = -targets.repeat_interleave(3, dim=0)
            for item, favourite in enumerate(favourites):
                embeds[3 * item + favourite] *= -1
            return embeds

    targets = vectors(3)
    monkeypatch.setattr(hearing_pipe.generator_clap, "audio_encoder", Rigged())
    noise = torch.randn(9, 4, 64, 4, generator=seeded())
    kept = hearing_pipe(prompt_embeds=targets, latents=noise, num_candidates=3, **FAST)
    expected = hearing_pipe(
        prompt_embeds=targets, latents=noise[[2, 3, 7]], num_candidates=1, **FAST
    )
    torch.testing.assert_close(kept.audios, expected.audios, atol=1e-5, rtol=0)
    assert kept.similarities.argmax(dim=1).tolist() == favourites
    assert expected.similarities is None


def test_the_generators_own_clap_keeps_the_candidate_it_hears_best(hearing_pipe):
    call = {"generator": seeded(), "audio_length_in_s": SECONDS, "num_inference_steps": 3}
    best = hearing_pipe(photographs(2), num_candidates=4, **call)
    ears = ClapEncoder.from_pretrained(hearing_pipe.config.clap_id)
    heard = ears.encode_audio([(sound, best.sampling_rate) for sound in best.audios])
    similarities = (heard * best.audio_embeds).sum(dim=-1)
    torch.testing.assert_close(similarities, best.similarities.max(dim=1).values)
    assert best.similarities.shape == (2, 4)


def test_a_prior_gives_every_candidate_and_every_seed_a_vector_of_its_own(hearing_pipe):
    translator = hearing_pipe.translator
    prior = PriorTranslator(12, 16, hidden_size=8, provenance=translator.provenance).eval()
    prior.initialize(seeded(3))
    pipe = joined(hearing_pipe, translator=prior)
    used = []
    options = {
        "callback_on_step_end": lambda pipe, step, time, tensors: used.append(tensors) or {},
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
        "guidance_scale": 1.0,
        **FAST,
    }
    once = pipe(photographs(2), generator=seeded(), **options).audio_embeds
    assert torch.equal(pipe(photographs(2), generator=seeded(), **options).audio_embeds, once)
    other = pipe(photographs(2), generator=seeded(1), **options).audio_embeds
    assert not torch.allclose(once, other, atol=1e-2)

    used.clear()
    several = pipe(photographs(2), num_candidates=3, generator=seeded(), **options)
    drawn = used[0]["prompt_embeds"].view(2, 3, 16)
    torch.testing.assert_close(drawn[:, 0], once)
    assert (drawn[:, 0] - drawn[:, 1]).abs().amax() > 1e-2
    best = several.similarities.argmax(1)
    assert torch.equal(several.audio_embeds, drawn[torch.arange(2), best])


def test_candidates_are_refused_where_nothing_hears(pipe):
    with pytest.raises(UserError, match=r"text, not audio.*ranker_translator="):
        pipe(photographs(1), num_candidates=2, **FAST)


def test_a_ranker_of_its_own_hears_in_its_own_space(pipe, clip_folder, foreign_folder):
    ears = ClapEncoder.from_pretrained(foreign_folder)
    ranked = joined(pipe, ranker=ears)
    with pytest.raises(UserError, match="ranker_translator"):
        ranked(photographs(1), num_candidates=2, **FAST)
    with pytest.raises(UserError, match="can't be ranked"):
        ranked(prompt_embeds=vectors(1), num_candidates=2, **FAST)
    with pytest.raises(SpaceMismatchError, match="ranker"):
        joined(ranked, ranker_translator=pipe.translator)

    leads_to_ears = make_translator(clip_folder, foreign_folder, seed=4)
    ranked = joined(ranked, ranker_translator=leads_to_ears)
    best = ranked(photographs(2), num_candidates=3, generator=seeded(), **FAST)
    heard = ears.encode_audio([(sound, best.sampling_rate) for sound in best.audios])
    targets = leads_to_ears(pipe.clip.encode_image(photographs(2)))
    torch.testing.assert_close((heard * targets).sum(dim=-1), best.similarities.max(dim=1).values)


def test_ranking_ignores_length_and_takes_the_first_of_equals(pipe):
    embeds = torch.tensor([[0.1, 5.0], [9.0, 0.0], [3.0, 0.0], *[[0.0, 1.0]] * 3])
    pipe.generator_clap.audio_encoder = nn.Module()
    pipe.generator_clap.audio_encoder.encode_audio = lambda audios: embeds
    targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    best, similarities = pipe.rank(torch.zeros(6, 8), targets)
    assert best.tolist() == [1, 0]
    torch.testing.assert_close(similarities[0, 1:], torch.ones(2))
    with pytest.raises(UserError, match=r"\(6, 2\) and \(4, 2\)"):
        pipe.rank(torch.zeros(6, 8), torch.zeros(4, 2))


# What goes in and what comes out


def test_an_unreadable_photograph_is_named_before_any_sound_is_made(pipe, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        pytest.fail("sound was made")

    monkeypatch.setattr(pipe.unet, "forward", refuse)
    (tmp_path / "notes.jpg").write_text("no picture")
    images = [*photographs(2), tmp_path / "notes.jpg"]
    with pytest.raises(UnreadableImageError, match=r"Image 3 of 3.*notes\.jpg"):
        pipe(images, **FAST)


def test_files_and_opened_images_sound_the_same(pipe, tmp_path):
    image = photographs(1)[0]
    image.save(tmp_path / "red.png")
    by_file = pipe(tmp_path / "red.png", generator=seeded(), **FAST)
    by_image = pipe([image], generator=seeded(), **FAST)
    assert torch.equal(by_file.audios, by_image.audios)
    expected = pipe.translator(pipe.clip.encode_image([image]))
    assert torch.equal(by_file.audio_embeds, expected)


@pytest.mark.parametrize("seconds", [0.001, 0.0641, 0.1, 0.29])
def test_length_is_what_was_asked_for(pipe, seconds):
    call = {"num_inference_steps": 1, "audio_length_in_s": seconds}
    audios = pipe(prompt_embeds=vectors(1), **call).audios
    assert audios.shape == (1, round(seconds * 16000))


def test_length_defaults_to_the_unets_own(pipe):
    assert pipe.default_audio_length_in_s == 32 * 2 * 8 / 16000
    assert pipe(prompt_embeds=vectors(1), num_inference_steps=1).audios.shape == (1, 512)


def test_output_is_float32_in_the_form_asked_for(pipe):
    call = {"prompt_embeds": vectors(2), "audio_length_in_s": SECONDS, "num_inference_steps": 2}
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

    call = {"prompt_embeds": vectors(2), **FAST}
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


def test_a_sound_beyond_full_scale_is_made_quieter_and_the_others_are_not(pipe, monkeypatch):
    call = {"prompt_embeds": vectors(2), **FAST}
    plain = pipe(**call, generator=seeded()).audios
    quiet, peaks = pipe.vocoder.forward, torch.tensor([[4.0], [0.5]])

    def loud(mel):
        sound = quiet(mel)
        return sound / sound.abs().amax(1, keepdim=True) * peaks

    monkeypatch.setattr(pipe.vocoder, "forward", loud)
    sounds = pipe(**call, generator=seeded()).audios
    assert sounds.abs().amax(1).max() <= 1
    # Only the level has changed.
    cosine = torch.nn.functional.cosine_similarity(sounds, plain)
    torch.testing.assert_close(cosine, torch.ones(2))
    louder = pipe.vocoder(pipe.vae.decode(torch.zeros(2, 4, 64, 4)).sample.squeeze(1))
    assert louder.abs().amax(1).tolist() == pytest.approx([4.0, 0.5])


def test_the_pipelines_own_number_of_candidates_is_made_unless_another_is_given(hearing_pipe):
    hearing_pipe.register_to_config(default_num_candidates=3)
    call = {"prompt_embeds": vectors(2), **FAST}
    assert hearing_pipe(**call, generator=seeded()).similarities.shape == (2, 3)
    assert hearing_pipe(**call, num_candidates=1).similarities is None
    # Noise that is given is what is to be heard.
    noise = torch.randn(2, 4, 64, 4, generator=seeded())
    assert hearing_pipe(**call, latents=noise).similarities is None


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


def test_a_pipeline_without_clip_takes_vectors_and_refuses_photographs(pipe):
    pipeline = joined(pipe, clip=None, translator=None)
    assert pipeline(prompt_embeds=vectors(2), **FAST).audios.shape == (2, 1024)
    with pytest.raises(UserError, match=r"clip=.*translator="):
        pipeline(photographs(1))


# Loading and saving


def test_a_saved_pipeline_sounds_exactly_the_same(saved, tmp_path):
    pipe: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        for part in ("clip", "translator", "unet", "vae", "vocoder", "negative_embedding"):
            for weight in getattr(pipe, part).parameters():
                weight += 0.01 * torch.randn(weight.shape)
    pipe.register_to_config(
        default_guidance_scale=3.5,
        default_guidance_interval=(0.2, 0.5),
        default_num_inference_steps=2,
    )
    before = pipe(photographs(2), generator=seeded(), audio_length_in_s=SECONDS)
    pipe.save_pretrained(tmp_path / "again")
    again: Any = ImageToAudioPipeline.from_pretrained(tmp_path / "again", torch_dtype=None)
    again.set_progress_bar_config(disable=True)
    after = again(photographs(2), generator=seeded(), audio_length_in_s=SECONDS)
    assert np.array_equal(after.audios, before.audios)
    assert torch.equal(after.audio_embeds, before.audio_embeds)
    assert again.config.default_guidance_scale == 3.5
    assert tuple(again.config.default_guidance_interval) == (0.2, 0.5)


def test_parts_given_by_hand_take_the_place_of_the_saved_ones(pipe, saved, ddim):
    again: Any = ImageToAudioPipeline.from_pretrained(
        saved, clip=pipe.clip, translator=saved / "translator", scheduler=ddim
    )
    assert again.clip is pipe.clip
    assert again.scheduler is ddim


def test_from_pretrained_takes_an_audioldm_checkpoint_too(pipe, audioldm_folder):
    same: Any = ImageToAudioPipeline.from_pretrained(
        audioldm_folder, clip=pipe.clip, translator=pipe.translator, torch_dtype=None
    )
    same.set_progress_bar_config(disable=True)
    call = {"images": photographs(1), **FAST}
    assert torch.equal(
        same(**call, generator=seeded()).audios, pipe(**call, generator=seeded()).audios
    )


@pytest.mark.parametrize("part", ["unet", "vae", "vocoder", "negative_embedding", "translator"])
@pytest.mark.parametrize("fault", ["missing", "unknown", "wrongly sized"])
def test_weights_that_do_not_fit_are_named(saved, part, fault):
    [path] = (saved / part).glob("*.safetensors")
    weights = load_file(path)
    name = sorted(weights)[0]
    if fault == "missing":
        del weights[name]
    elif fault == "unknown":
        name = "stranger.weight"
        weights[name] = torch.zeros(3)
    else:
        weights[name] = torch.zeros(1, 2, 3, 4, 5)
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name) as error:
        ImageToAudioPipeline.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_a_vae_saved_under_the_older_names_of_its_attention_loads(pipe, saved):
    path = saved / "vae/diffusion_pytorch_model.safetensors"
    renamed = {}
    for name, weight in load_file(path).items():
        for new, old in (
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ):
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = weight
    assert renamed.keys() != load_file(path).keys()
    save_file(renamed, path, metadata={"format": "pt"})
    older = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    for name, weight in pipe.vae.state_dict().items():
        assert torch.equal(older.vae.state_dict()[name], weight)


def test_sounds_come_out_of_principal_components_too(pipe, tmp_path):
    mels = torch.randn(64, 1, 16, 8, generator=seeded()) - 5
    vae = PatchAutoencoder.from_pictures(mels, latent_channels=4, patch_size=2)
    other = ImageToAudioPipeline(**{**pipe.components, "vae": vae})
    other.save_pretrained(tmp_path)
    again = ImageToAudioPipeline.from_pretrained(tmp_path, torch_dtype=None)
    call = {"images": photographs(1), **FAST}
    made, before, expected = (
        torch.as_tensor(model(**call, generator=seeded()).audios) for model in (again, pipe, other)
    )
    assert made.isfinite().all()
    assert made.shape == before.shape
    assert torch.equal(made, expected)


def test_an_autoencoder_that_is_not_known_is_named(saved):
    index = json.loads((saved / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (saved / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"AutoencoderTiny.*PatchAutoencoder"):
        ImageToAudioPipeline.from_pretrained(saved)


def test_a_missing_folder_and_an_unreachable_hub_are_told_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    for name in (str(tmp_path / "nowhere"), "nobody/nothing-of-the-kind", "no name"):
        with pytest.raises(ModelNotFoundError, match="folder") as error:
            ImageToAudioPipeline.from_pretrained(name)
        assert "\n" not in str(error.value)


def test_of_a_hub_checkpoint_only_the_generator_is_fetched_in_one_format(
    monkeypatch, audioldm_folder
):
    files = [path for path in audioldm_folder.rglob("*") if path.is_file()]
    listed = [path.relative_to(audioldm_folder).as_posix() for path in files]
    listed += ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in listed])
    fetched = set()

    def download(repo_id, *, allow_patterns, local_files_only, **kwargs):
        if local_files_only:
            raise FileNotFoundError
        fetched.update(allow_patterns)
        return str(audioldm_folder)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    ImageToAudioPipeline.from_audioldm("owner/audioldm", fetch_text_encoder=False)
    assert fetched == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        *(f"{part}/config.json" for part in ("unet", "vae", "vocoder")),
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vocoder/model.safetensors",
    }


def test_dtype_goes_to_the_generator_and_leaves_the_vector_in_float32(pipe, saved):
    dtype = {"default": torch.bfloat16, "vocoder": torch.float32}
    half: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=dtype)
    half.set_progress_bar_config(disable=True)
    assert half.unet.dtype == half.vae.dtype == torch.bfloat16
    assert half.vocoder.dtype == half.clip.dtype == half.translator.dtype == torch.float32
    call = {"images": photographs(2), **FAST}
    got, expected = half(**call, generator=seeded()), pipe(**call, generator=seeded())
    assert torch.equal(got.audio_embeds, expected.audio_embeds)
    error = (got.audios - expected.audios).std() / expected.audios.std()
    assert 0 < error < 0.2


@pytest.mark.parametrize(
    ("has_instructions", "expected"), [(True, torch.bfloat16), (False, torch.float32)]
)
def test_auto_dtype_is_bfloat16_only_with_instructions_and_never_for_the_vocoder(
    monkeypatch, has_instructions, expected
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    dtype_of = part_dtypes("auto")
    assert dtype_of("unet") == dtype_of("vae") == expected
    assert dtype_of("vocoder") == dtype_of("clip") == torch.float32


def test_few_step_scheduler_keeps_the_noise_schedule_and_the_prediction_type(ddim):
    original: Any = DDIMScheduler.from_config(ddim.config, prediction_type="v_prediction")
    solver: Any = few_step_scheduler(original)
    assert torch.equal(solver.alphas_cumprod, original.alphas_cumprod)
    assert solver.config.prediction_type == "v_prediction"
    solver.set_timesteps(10)
    assert solver.timesteps[0] == 999
    assert solver.sigmas[-1] == 0


def test_the_few_step_scheduler_comes_closer_than_ddim_to_many_steps(pipe, ddim):
    def sound(scheduler, steps):
        pipe.scheduler = scheduler
        return pipe(
            prompt_embeds=vectors(2),
            latents=torch.randn(2, 4, 64, 4, generator=seeded()),
            audio_length_in_s=SECONDS,
            num_inference_steps=steps,
            output_type="pt",
        ).audios

    spaced = DDIMScheduler.from_config(ddim.config, timestep_spacing="linspace")
    solver = few_step_scheduler(ddim.config)
    many = sound(spaced, 200)
    assert (sound(solver, 20) - many).std() < (sound(spaced, 20) - many).std()


def test_loading_and_running_writes_nothing_to_the_terminal(saved, capfd):
    capfd.readouterr()
    pipe = ImageToAudioPipeline.from_pretrained(saved)
    pipe.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe(photographs(1), **FAST)
    assert capfd.readouterr() == ("", "")


def test_offloading_changes_no_sound(pipe, saved):
    call = {"images": photographs(2), **FAST}
    expected = pipe(**call, generator=seeded()).audios
    offloaded: Any = ImageToAudioPipeline.from_pretrained(saved, torch_dtype=None)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")
    for _ in range(2):
        got = offloaded(**call, generator=seeded()).audios
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
