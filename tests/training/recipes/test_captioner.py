"""Texts of the captioner's recipe, and its training on a few made embeddings."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.space import Family, Modality
from clip2clap.training.recipes.captioner import recipe as module
from clip2clap.training.recipes.captioner.data import Media
from clip2clap.training.recipes.captioner.recipe import CaptionerRecipe, package, with_common
from clip2clap.training.recipes.captioner.texts import (
    audio_sentences,
    clean,
    image_sentences,
    names_class,
    natural_captions,
)
from clip2clap.training.recipes.demo.words import CLASSES


def test_every_sentence_of_a_class_names_it_and_no_other_sentence_does():
    for label in CLASSES:
        sentences = [*image_sentences("some thing", label), *audio_sentences("thing", label)]
        assert all(names_class(each, label) for each in sentences), label
    assert not names_class("a photo of a cat", "dog")
    assert not names_class("a scandal", "can")
    assert names_class("Two puppies? No: hounds.", "dog")


def test_a_class_named_by_its_own_category_is_named_once():
    assert image_sentences("dog", "dog")[0] == "a photo of a dog"
    assert image_sentences("Maltese dog", "dog")[0] == "a photo of a maltese dog, a dog"
    assert image_sentences("piano", "")[0] == "a photo of a piano"


def test_captions_are_cleaned_and_natural_ones_speak_of_one_class():
    assert clean(" A dog barks , then  growls .") == "a dog barks, then growls"
    captions = ["a dog barks", "a man speaks as a dog barks", "a dog and a cat", "rain"]
    assert natural_captions(captions, "dog") == ["a dog barks"]


def test_the_recipe_trains_both_captioners_and_writes_them(tmp_path, monkeypatch):
    sizes = {"VOCABULARY": 300, "WIDTH": 16, "LAYERS": 1, "HEADS": 2, "HIDDEN": 16}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    generator = torch.Generator().manual_seed(0)

    def embeds(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 512, generator=generator), dim=1)

    texts = ["a dog barks", "rain falls on a roof", "a clock ticks", "a train passes"]
    media = Media(embeds(4), ["dog", "rain"] * 2, ["dog", "rain"] * 2, ["train"] * 4)
    recipe: Any = CaptionerRecipe.__new__(CaptionerRecipe)
    recipe.folder, recipe.schedule = tmp_path / "run", module.Schedule(2, 1e-3, warmup=1)
    recipe.data = SimpleNamespace(
        captions=lambda name: texts,
        text_embeds=lambda name: embeds(4),
        images=lambda: media,
        audio=lambda: media,
        data=SimpleNamespace(class_names=["dog", "rain"]),
    )
    recipe.folder.mkdir()
    package(recipe, tmp_path / "models")
    pairs: tuple[tuple[Family, Modality], ...] = (("clip", "image"), ("clap", "audio"))
    for family, modality in pairs:
        made = Captioner.from_pretrained(tmp_path / "models" / family)
        made.check_source(read_space("demo", family=family, modality=modality))
        assert made.mapper.config["modalities"] == ["text", modality]
        assert made.facts["recipe"]["steps"] == 2
    mapper = Captioner.from_pretrained(tmp_path / "models" / "clap").mapper
    assert mapper.config["common"]["modality"] == "text"
    assert mapper.common.any()
    mapper = Captioner.from_pretrained(tmp_path / "models" / "clip").mapper
    means = torch.stack([media.embeds[[n, n + 2]].mean(dim=0) for n in range(2)])
    assert torch.allclose(mapper.memory, torch.nn.functional.normalize(means, dim=1), atol=1e-3)
    assert mapper.config["memory"]["modality"] == "image"


def test_common_directions_are_those_in_which_texts_vary_the_most(monkeypatch):
    monkeypatch.setattr(module, "COMMON", 4)
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0] * 4 + [0.01] * 12)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    texts = (scales * torch.randn(400, 16, generator=generator)) @ rotation
    mapper = with_common(PrefixMapper(16, 8, 2, modalities=("text", "audio")), texts)
    found = mapper.distinct(texts, "text")
    assert torch.allclose(found.norm(dim=1), torch.ones(400), atol=1e-5)
    shares = found @ torch.linalg.eigh(texts.T.cov()).eigenvectors
    large, small = shares[:, -4:].square().mean(), shares[:, :-4].square().mean()
    assert large < 2 * small
    units = torch.nn.functional.normalize(texts, dim=1)
    assert torch.equal(mapper.distinct(texts, "audio"), units)


@pytest.mark.parametrize(("family", "modality"), [("clip", "image"), ("clap", "audio")])
def test_the_demo_captioners_read_the_demo_encoders(family, modality):
    made = Captioner.from_pretrained(DEMO_FOLDER / "captioner" / family)
    made.check_source(read_space("demo", family=family, modality=modality))
    ((caption,),) = made.generate(torch.randn(1, 512), modality=modality)
    assert len(caption.split()) > 1
