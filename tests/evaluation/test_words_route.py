"""The words route, a baseline of generated audio and images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.evaluation.cache import PROMPTS_FILE, GenerationConfig
from clip2clap.evaluation.comparison import compare_results
from clip2clap.evaluation.datasets import read_image_dataset
from clip2clap.evaluation.generation.audio import evaluate_audio
from clip2clap.evaluation.generation.base import generation_results
from clip2clap.evaluation.generation.words import WordsBaseline
from clip2clap.evaluation.report.tables import generation_rows
from clip2clap.evaluation.results import join_results
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.text_to_image import TextToImage
from clip2clap.media.audio import load_audio
from clip2clap.translator.mlp import MLPTranslator

from .builders import LABELS, measure, write_color, write_tone

CONFIG = GenerationConfig(num_inference_steps=2, audio_length_in_s=0.1, resamples=200)


class Says:
    """Captioner that says the same of all inputs."""

    def __init__(self, text: str):
        self.text = text
        self.modality = None

    def check_source(self, space: Any) -> None:
        pass

    def generate(self, embeds: Tensor, *, modality: Any) -> list[list[str]]:
        self.modality = modality
        return [[self.text]] * len(embeds)


def test_audio_of_the_words_route_is_that_of_the_captions(
    musicldm_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    pipeline = ImageToAudioPipeline.from_pretrained(
        musicldm_folder, clip=clip_folder, torch_dtype=None
    )
    pipeline.set_progress_bar_config(disable=True)
    clap, clip = (
        ClapEncoder.from_pretrained(musicldm_folder),
        ClipEncoder.from_pretrained(clip_folder),
    )
    translator = MLPTranslator(12, 16, hidden_size=8)
    translator.initialize(torch.Generator().manual_seed(0))
    translator.record(source_space=clip.space("image"), target_space=clap.space("text"))
    for at, label in enumerate(LABELS):
        for number in range(2):
            write_color(tmp_path / "images" / label / f"{number}.png", (200 * at, 80 * number, 50))
            write_tone(tmp_path / "real" / label / f"own {number}.wav", (900, 200)[at])
    dataset = read_image_dataset(tmp_path / "images", tmp_path / "real")
    captioner: Any = Says("a dog barks")
    found = evaluate_audio(
        pipeline,
        {"one": translator.eval()},
        dataset,
        tmp_path / "out",
        clap=clap,
        config=CONFIG,
        words=WordsBaseline(captioner),
    )
    assert captioner.modality == "image"
    words = found.words_route
    assert words is not None
    assert len(found.translators) == 1
    expected = pipeline(
        prompt=["a dog barks"] * 4,
        generator=[0, 1, 2, 3],
        num_inference_steps=2,
        audio_length_in_s=0.1,
        num_candidates=1,
    ).audios
    made = np.stack([load_audio(file)[0] for file in words.files])
    assert np.abs(made - expected).max() < 1e-3
    lines = (tmp_path / "out" / "words-route" / PROMPTS_FILE).read_text().splitlines()
    assert {json.loads(line)["prompt"] for line in lines} == {"a dog barks"}
    part, per_row = generation_results(found, dataset, folder="images", pipeline="tiny")
    names = [name for name, *_ in generation_rows(part, "audio")]
    assert names == ["real audio", "one", "wrong source", "words route", "wrong source"]
    assert len(per_row["audio/words route/clap_score"]) == 4
    differences = compare_results(join_results(seed=0, audio=(part, per_row)))
    assert {(each.one, each.other) for each in differences} == {("one", "words route")}
    assert "clap_score" in {each.metric for each in differences}


def test_images_of_the_words_route_are_the_text_models_or_the_decoders(
    pipeline, folder, text_to_image_folder
) -> None:
    captioner: Any = Says("a dog")
    own = measure(pipeline, folder, words=WordsBaseline(captioner))
    embed = pipeline.encode_text(["a dog"])
    expected = pipeline(image_embeds=embed, generator=[2], num_inference_steps=2).images[0]
    assert own.words_route is not None
    assert captioner.modality == "audio"
    made = np.asarray(Image.open(own.words_route.files[2])).astype(int)
    assert np.abs(made - np.asarray(expected)).max() <= 2
    model = TextToImage.from_pretrained(text_to_image_folder, torch_dtype=None)
    other = measure(pipeline, folder, words=WordsBaseline(captioner, model))
    assert other.words_route is not None
    expected = model(["a dog"], generator=[2], num_inference_steps=2)[0]
    made = np.asarray(Image.open(other.words_route.files[2])).astype(int)
    assert np.abs(made - np.asarray(expected)).max() <= 1


def test_a_captioner_of_another_space_is_refused(pipeline, folder, tiny_language_model) -> None:
    space = pipeline.clip.space("image")
    captioner = Captioner(PrefixMapper(space.dim, 16, 2), *tiny_language_model(), space=space)
    with pytest.raises(SpaceMismatchError):
        measure(pipeline, folder, words=WordsBaseline(captioner))
