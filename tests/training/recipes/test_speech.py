"""Texts, alterations, weights and training of the speech encoder's recipe."""

import random
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.metrics.calibration import Calibration
from clip2clap.training.recipes.demo.words import CLASSES
from clip2clap.training.recipes.speech import evaluate
from clip2clap.training.recipes.speech import recipe as module
from clip2clap.training.recipes.speech.alterations import altered
from clip2clap.training.recipes.speech.bank import SpeechBank, draw_utterances
from clip2clap.training.recipes.speech.calibration import VOICES as CALIBRATION_VOICES
from clip2clap.training.recipes.speech.calibration import choose
from clip2clap.training.recipes.speech.evaluate import SpeechEvaluation
from clip2clap.training.recipes.speech.recipe import (
    SpeechRecipe,
    build_model,
    distillation_loss,
    encode_frames,
    feature_extractor,
    package,
    pooled,
    training_mask,
)
from clip2clap.training.recipes.speech.texts import (
    EVALUATION_PHRASES,
    TRAINING_PHRASES,
    Sentence,
    name_sentences,
    phrase,
    word_sentences,
)
from clip2clap.training.recipes.speech.voices import (
    ESPEAK_VARIANTS,
    EVALUATION_VOICES,
    FURTHER_VOICES,
    TRAINING_VOICES,
    UNSEEN_VOICES,
    trimmed,
)
from clip2clap.training.recipes.speech.whisper import whisper_encoder


def test_phrases_have_articles_and_plurals():
    assert phrase("show me {a}", "airplane") == "show me an airplane"
    assert [phrase("{s}", name) for name in ("puppy", "box", "monkey", "ibis")] == [
        "puppies",
        "boxes",
        "monkeys",
        "ibis",
    ]


def test_evaluation_shares_no_phrase_and_no_voice_with_training():
    assert not {*EVALUATION_PHRASES} & {*TRAINING_PHRASES}
    voices = [*EVALUATION_VOICES, *FURTHER_VOICES, *UNSEEN_VOICES]
    assert not {*voices} & {*TRAINING_VOICES, *CALIBRATION_VOICES}
    assert len({*voices}) == len(voices)
    held_out = [*voices, *CALIBRATION_VOICES]
    variants = {each.name.split("+")[1] for each in held_out if each.engine == "espeak"}
    assert not variants & {*ESPEAK_VARIANTS}


def test_speech_that_is_not_english_means_no_image_and_no_voice_of_training_says_it():
    utterances = evaluate.foreign_utterances()
    assert all(not each.sentence.meaning for each in utterances)
    languages, variants = zip(*(each.voice.name.split("+") for each in utterances), strict=True)
    assert not any(language.startswith("en") for language in languages)
    assert not {*variants} & {*ESPEAK_VARIANTS}


def test_sentences_mean_the_name_within_them():
    sentences = name_sentences(["tench"], seed=1, per_synonym=2, per_name=3)
    assert sum(each.meaning == "tench" for each in sentences) == 3
    assert sum(each.meaning == "dog" for each in sentences) == 6
    assert all(each.meaning[:2] in each.text for each in sentences)
    words = word_sentences(["the old wolf howls", "a wolf"], 1, seed=1, each=2)
    assert [each.meaning for each in words] == ["wolf", "wolf"]
    tied = word_sentences(["zebra apple mango", "a fig"], 3, seed=1, each=1)
    assert [each.meaning for each in tied] == ["apple", "fig", "mango"]


def test_altered_speech_is_finite_and_within_full_scale():
    rng = np.random.default_rng(0)
    tone = np.sin(np.arange(8_000) / 10).astype(np.float32)
    made = [altered(tone, [tone[::-1].copy()], rng) for _ in range(20)]
    assert all(np.isfinite(each).all() and np.abs(each).max() <= 1 for each in made)
    assert len({each.size for each in made}) > 1


def test_silence_at_the_ends_is_cut_and_the_peak_is_a_half():
    speech = np.r_[np.zeros(50), 0.1, -0.2, np.zeros(50)].astype(np.float32)
    assert trimmed(speech).tolist() == pytest.approx([0.25, -0.5])


def backbone() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        max_source_positions=200,
    )
    return WhisperEncoder(config).state_dict()


def test_whispers_encoder_is_read_from_a_file_of_ctranslate2(tmp_path):
    state = {name: torch.randn_like(value) for name, value in backbone().items()}
    stored = {f"encoder/{n.replace('.', '/')}": v for n, v in state.items() if n[:4] == "conv"}
    stored["encoder/position_encodings/encodings"] = torch.cat(
        [state["embed_positions.weight"]] * 2
    )
    for layer in range(4):
        source, target = f"encoder/layer_{layer}", f"layers.{layer}"
        for part in ("weight", "bias"):
            rows = [state.get(f"{target}.self_attn.{each}_proj.{part}") for each in "qkv"]
            rows = [torch.zeros(384) if row is None else row for row in rows]
            stored[f"{source}/self_attention/linear_0/{part}"] = torch.cat(rows)
            output = state[f"{target}.self_attn.out_proj.{part}"]
            stored[f"{source}/self_attention/linear_1/{part}"] = output
            stored[f"{source}/ffn/linear_0/{part}"] = state[f"{target}.fc1.{part}"]
            stored[f"{source}/ffn/linear_1/{part}"] = state[f"{target}.fc2.{part}"]
        for norm, name in (("self_attention", "self_attn_layer_norm"), ("ffn", "final_layer_norm")):
            for part, own in (("weight", "gamma"), ("bias", "beta")):
                value = state[f"{target}.{name}.{part}"]
                stored[f"{source}/{norm}/layer_norm/{own}"] = value
    path = tmp_path / "model.bin"
    path.write_bytes(ctranslate2_file(stored))
    read = whisper_encoder(path, layers=4, positions=200)
    expected = {**state, "layer_norm.weight": torch.ones(384), "layer_norm.bias": torch.zeros(384)}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], expected[name]) for name in read)


def ctranslate2_file(variables: dict[str, torch.Tensor]) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        data = value.float().numpy().tobytes()
        shape = struct.pack(f"<{value.dim()}I", *value.shape)
        header = struct.pack("<B", value.dim()) + shape + struct.pack("<BI", 0, len(data))
        parts += [text(name), header, data]
    return b"".join(parts)


def test_frozen_frames_give_the_embeddings_of_the_whole_model_without_dropout(monkeypatch):
    monkeypatch.setattr(module, "DROPOUT", 0.0)
    model = build_model(backbone()).eval()
    torch.nn.init.normal_(model.backbone.layer_norm.weight, 1, 0.2)
    waveform = np.sin(np.arange(20_000) / 9).astype(np.float32)
    inputs = feature_extractor()([waveform], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        whole = model(inputs.input_features, torch.tensor([20_000])).pooler_output
    frozen = build_model(backbone()).eval()
    frames = encode_frames(frozen, [waveform[:9_000], waveform])
    mask = torch.ones(1, int(frames.lengths[1]), dtype=torch.bool)
    with torch.no_grad():
        embeds = pooled(model, frames.batch(torch.tensor([1])), mask, torch.Generator())
    torch.testing.assert_close(embeds, whole, atol=2e-3, rtol=0)


def test_the_mask_of_training_hides_one_stretch_and_never_all():
    lengths = torch.tensor([1, 50, 200])
    for seed in range(20):
        mask = training_mask(lengths, torch.Generator().manual_seed(seed))
        assert mask[:, 0].all()
        assert mask.shape == (3, 200)
        assert not mask[1, 50:].any()
        assert (mask.sum(1) >= (lengths - module.MASKED_FRAMES).clamp(min=1)).all()


def test_the_loss_is_least_at_the_teachers_own_embedding():
    generator = torch.Generator().manual_seed(0)
    targets = unit_norm(torch.randn(20, 8, generator=generator))
    images = unit_norm(torch.randn(30, 8, generator=generator))
    assert distillation_loss(targets, targets, [targets, images]) == pytest.approx(0, abs=1e-5)
    alone = distillation_loss(targets.roll(1, 0), targets, [targets])
    assert distillation_loss(targets.roll(1, 0), targets, [targets, images]) > alone > 1


class Pretended(SpeechBank):
    """A bank whose voices hum."""

    def synthesize(self, workers: int | None = None) -> None:
        del workers

    def __iter__(self):
        for number, _ in enumerate(self.utterances):
            yield np.sin(np.arange(6_000) / (5 + number)).astype(np.float32)


def test_the_recipe_trains_the_pooling_alone_and_packages_an_encoder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 4)
    recipe: Any = SpeechRecipe.__new__(SpeechRecipe)
    recipe.folder, recipe.backbone = tmp_path, backbone()
    recipe.schedule = module.Schedule(2, 1e-3, warmup=1)
    sentences = [Sentence(name, name) for name in ("dog", "cat", "train")]
    recipe.bank = Pretended(tmp_path / "speech", draw_utterances(sentences, seed=0))
    recipe.captions, recipe.noises = ["train"], []
    recipe.images = unit_norm(torch.randn(5, 512))
    recipe.names = ["dog", "cat"]
    recipe.clip = SimpleNamespace(
        encode_text=lambda texts: unit_norm(torch.randn(len(texts), 512)),
        space=lambda modality: read_space("demo", family="clip", modality=modality),
    )
    recipe.data = None
    calibration = Calibration("logistic", (2.0, 0.5))
    monkeypatch.setattr(module, "calibrate", lambda *_: calibration)
    package(recipe, tmp_path / "speech-encoder")
    encoder = SpeechEncoder.from_pretrained(str(tmp_path / "speech-encoder"))
    assert encoder.space("audio").same_model_as(read_space("demo", family="clip", modality="image"))
    kept: Any = encoder.backend
    weight = kept.model.backbone.layers[0].fc1.weight
    torch.testing.assert_close(weight, backbone()["layers.0.fc1.weight"], rtol=2**-4, atol=2**-9)
    assert len(recipe.frames.lengths) == 3 * module.COPIES
    assert kept.model.memory.shape == (2, 512)
    assert kept.config.speeds == list(module.SPEEDS)
    fits = encoder.fit_probability(torch.tensor([0.4]))
    assert fits is not None
    assert fits.numpy() == pytest.approx(calibration(np.array([0.7])))


def test_images_of_speech_are_classified_beside_those_of_the_same_text(monkeypatch):
    classes = list(CLASSES)
    right = torch.eye(len(classes)).repeat_interleave(len(EVALUATION_PHRASES), dim=0)
    queries = {"speech": right.roll(4 * len(EVALUATION_PHRASES), dims=0), "text": right}
    unused: Any = None
    evaluation: Any = SpeechEvaluation(unused, unused, unused, None)
    monkeypatch.setattr(evaluation, "encode", lambda phrases, **_: queries)
    said: list[str] = []
    evaluation.generate_images(
        lambda image_embeds, **_: SimpleNamespace(images=list(image_embeds)),
        lambda images: torch.stack(images).argmax(dim=1),
        said.append,
    )
    assert [each.split(" (")[0] for each in said] == [
        "images generated, speech: 0.0% of 184",
        "images generated, text: 100.0% of 184",
    ]


def test_images_painted_from_speech_are_named_beside_those_from_the_same_text(monkeypatch):
    monkeypatch.setattr(evaluate, "name_embeds", lambda *_: torch.eye(len(CLASSES)))
    right = torch.eye(len(CLASSES)).repeat_interleave(len(EVALUATION_PHRASES), dim=0)
    wrong = right.roll(len(EVALUATION_PHRASES), dims=0)
    unused: Any = None
    evaluation: Any = SpeechEvaluation(unused, unused, unused, None)
    evaluation.clip = SimpleNamespace(encode_image=lambda images: torch.stack(images))
    monkeypatch.setattr(evaluation, "encode", lambda *_, **__: {"speech": wrong, "text": right})
    said: list[str] = []
    evaluation.paint_images(
        lambda embed: embed, lambda images: torch.stack(images).argmax(dim=1), said.append
    )
    assert [each.split(" (")[0] for each in said] == [
        "images painted, speech: similarity to the class 0.000, nearest to it 0.0% of 184",
        "images painted, text: similarity to the class 1.000, nearest to it 100.0% of 184",
    ]


def test_speech_chooses_among_images_of_which_one_or_none_is_meant():
    labels, images = ["dog", "cat", "cow", "pig", "sea"], torch.eye(5)
    embed = unit_norm(torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0]]))[0]
    for is_meant in (True, False):
        best, right = choose(embed, "dog", labels, images, random.Random(0), is_meant=is_meant)
        assert right is is_meant
        assert best == pytest.approx(float(embed[0 if is_meant else 1]))
