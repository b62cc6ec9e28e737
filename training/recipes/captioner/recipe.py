"""Training of the demo captioners: one GPT-2 of a few million parameters, two mappers."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clip2clap.captioning.captioner import LANGUAGE_MODEL, Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.hub import quiet
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.training.recipes.captioner.data import CaptionerData, Media, TextSplit
from clip2clap.training.recipes.captioner.texts import (
    audio_sentences,
    clean,
    image_sentences,
    natural_captions,
)
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.training.recipes.demo.loop import Schedule, Stage, mixed_precision
from clip2clap.training.recipes.demo.package import compact

SCHEDULE = Schedule(9_500, 1.5e-3, warmup=300, ema_decay=0.999)
VOCABULARY, WIDTH, LAYERS, HEADS = 1_500, 192, 3, 6
PREFIX, HIDDEN, MOST_TOKENS = 6, 256, 24
# Rows of a step by where they come from.
BATCHES = {"clap_text": 24, "clip_text": 8, "clap_audio": 8, "clip_image": 8}
# Largest standard deviation of the noise on texts' embeddings, drawn for each text; half have none.
NOISE = 0.03
# Share of natural captions among those of a class's audio.
NATURAL = 0.3
# Pull of images towards the mean embedding of their class.
MEMORY = {"beta": 30.0, "mix": 0.3}
# Directions that texts' embeddings share, and the variance that others are taken to have.
COMMON, COMMON_FLOOR = 64, 1e-4
END = "<|end|>"


def train_tokenizer(captions: Sequence[str]) -> Any:
    """Train a byte-level BPE tokenizer with an end token."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def new_language_model() -> Any:
    """Build a GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=PREFIX + 64,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Source:
    """Embeddings (n, d) of one modality with the captions of each row, as tokens."""

    space: str
    modality: str
    embeds: Tensor
    tokens: list[list[list[int]]]

    def draw(self, count: int, seed: int) -> tuple[Tensor, list[list[int]]]:
        """Draw rows with captions of similar length: little padding."""
        rng = random.Random(seed)
        rows = [rng.randrange(len(self.tokens)) for _ in range(8 * count)]
        drawn = [(row, rng.choice(self.tokens[row])) for row in rows]
        drawn.sort(key=lambda each: len(each[1]))
        start = count * rng.randrange(8)
        part = drawn[start : start + count]
        return self.embeds[[row for row, _ in part]], [tokens for _, tokens in part]


class Captioners(nn.Module):
    """Both mappers and the language model."""

    def __init__(self, means: dict[str, dict[str, Tensor]], dim: int):
        super().__init__()
        self.language_model = new_language_model()
        self.mappers = nn.ModuleDict()
        for space, own in means.items():
            mapper = PrefixMapper(dim, WIDTH, PREFIX, "mlp", HIDDEN, modalities=tuple(own))
            for modality, mean in own.items():
                getattr(mapper, f"mean_{modality}").copy_(mean)
            self.mappers[space] = mapper


class CaptionerRecipe:
    """Data, training and the two captioners of the recipe.

    Args:
        data: The demo models' data.
        folder: Folder of embeddings, checkpoints and results.
        steps: Training steps, where they differ from `SCHEDULE`'s.
    """

    def __init__(self, data: DemoData, folder: Path, *, steps: int | None = None):
        self.data, self.folder = CaptionerData(data, folder), folder
        self.schedule = SCHEDULE if steps is None else replace(SCHEDULE, steps=steps)

    @cached_property
    def tokenizer(self) -> Any:
        """Tokenizer of all training captions."""
        of_media = self._media_captions.values()
        sentences = {each for rows in of_media for row in rows for each in row}
        texts = [*self.data.captions("train"), *self.data.captions("images"), *sorted(sentences)]
        return train_tokenizer(texts)

    @cached_property
    def class_means(self) -> Tensor:
        """Mean embeddings of the training images of each demo class, (classes, d), unit norm."""
        media = self._media["clip_image"]
        rows = media.rows("train", labeled=True)
        of_classes = [
            media.embeds[[row for row in rows if media.labels[row] == name]].mean(dim=0)
            for name in self.data.data.class_names
        ]
        return unit_norm(torch.stack(of_classes))

    @cached_property
    def captioners(self) -> dict[str, Captioner]:
        """Trained captioners of the demo CLIP and CLAP, which share their language model."""
        sources = self._sources
        means = {
            space: {
                source.modality: source.embeds.mean(dim=0)
                for source in sources.values()
                if source.space == space
            }
            for space in ("clip", "clap")
        }
        dim = sources["clap_text"].embeds.shape[1]
        stage = Stage("captioner", self.folder, self.schedule)
        stage.folder.mkdir(parents=True, exist_ok=True)

        def batch_loss(model: Any, generator: torch.Generator) -> Tensor:
            prefixes, tokens = [], []
            with mixed_precision():
                for name, count in BATCHES.items():
                    prefix, rows = self._draw(model, sources[name], count, generator)
                    prefixes.append(prefix)
                    tokens += rows
                captioner = Captioner(model.mappers["clip"], model.language_model, self.tokenizer)
                return captioner.prefix_loss(torch.cat(prefixes), **captioner.pad(tokens))

        trained = stage.train(
            lambda: Captioners(means, dim), batch_loss, device=torch.device("cpu")
        )
        spaces = {
            "clip": read_space("demo", family="clip", modality="image"),
            "clap": read_space("demo", family="clap", modality="audio"),
        }
        language_model, tokenizer = trained.language_model, self.tokenizer
        mappers = {
            "clip": with_memory(trained.mappers["clip"], self.class_means, **MEMORY),
            "clap": with_common(trained.mappers["clap"], sources["clap_text"].embeds),
        }
        return {
            family: Captioner(mappers[family], language_model, tokenizer, space=each).eval()
            for family, each in spaces.items()
        }

    def _draw(
        self, model: Captioners, source: Source, count: int, generator: torch.Generator
    ) -> tuple[Tensor, list[list[int]]]:
        """Draw the prefixes and the tokens of some captions of a source."""
        seed = int(torch.randint(2**31, (), generator=generator))
        embeds, tokens = source.draw(count, seed)
        if source.modality == "text":
            scale = NOISE * torch.rand(len(embeds), 1, generator=generator)
            scale *= torch.rand(len(embeds), 1, generator=generator) < 0.5
            embeds = unit_norm(embeds + scale * torch.randn(embeds.shape, generator=generator))
        return model.mappers[source.space](embeds, source.modality), tokens

    @cached_property
    def _media_captions(self) -> dict[str, list[list[str]]]:
        """Captions of each training row of images and audio."""
        found: dict[str, list[list[str]]] = {}
        natural = {
            label: natural_captions(self.data.captions("train"), label)
            for label in self.data.data.class_names
        }
        for name, media in self._media.items():
            found[name] = []
            for row in media.rows("train"):
                category, label = media.categories[row], media.labels[row]
                if name == "clip_image":
                    found[name].append([clean(each) for each in image_sentences(category, label)])
                    continue
                sentences = [clean(each) for each in audio_sentences(category, label)]
                others = natural.get(label, [])
                repeats = round(NATURAL / (1 - NATURAL) * len(sentences))
                rng = random.Random(row)
                drawn = [rng.choice(others) for _ in range(repeats)] if others else []
                found[name].append([*sentences, *drawn])
        return found

    @cached_property
    def _media(self) -> dict[str, Media]:
        return {"clip_image": self.data.images(), "clap_audio": self.data.audio()}

    @cached_property
    def _sources(self) -> dict[str, Source]:
        def tokens(captions: list[list[str]]) -> list[list[list[int]]]:
            cut = MOST_TOKENS - 1
            return [
                [[*row[:cut], self.tokenizer.eos_token_id] for row in self.tokenizer(own).input_ids]
                for own in captions
            ]

        sources = {}
        splits: dict[str, TextSplit] = {"clap_text": "train", "clip_text": "images"}
        for name, split in splits.items():
            captions = [[each] for each in self.data.captions(split)]
            embeds = self.data.text_embeds(split)
            sources[name] = Source(name[:4], "text", embeds, tokens(captions))
        for name, media in self._media.items():
            # Rows of a class are drawn as often as those of another, and a third of no class.
            rows, captions = media.rows("train"), self._media_captions[name]
            order = _balanced([media.labels[row] for row in rows])
            embeds = media.embeds[[rows[place] for place in order]]
            space, _, modality = name.partition("_")
            sources[name] = Source(space, modality, embeds, tokens([captions[p] for p in order]))
        return sources


def with_memory(mapper: PrefixMapper, known: Tensor, *, beta: float, mix: float) -> PrefixMapper:
    """Return a mapper that pulls images towards known embeddings (count, d) before."""
    memory = {"modality": "image", "count": len(known), "beta": beta, "mix": mix}
    found = PrefixMapper(**{**mapper.config, "memory": memory})
    found.load_state_dict({**mapper.state_dict(), "memory": known})
    return found


def with_common(mapper: PrefixMapper, embeds: Tensor) -> PrefixMapper:
    """Return a mapper with the directions in which texts' embeddings (n, d) vary the most.

    `PrefixMapper.distinct` shrinks them as whitening does, to the spread of the others.
    """
    variances, directions = torch.linalg.eigh(embeds.double().T.cov(correction=0))
    kept = (COMMON_FLOOR / (variances.clamp(min=0) + COMMON_FLOOR)).sqrt()
    common = ((1 - kept).sqrt() * directions).T[-COMMON:].float()
    settings = {"modality": "text", "count": len(common)}
    found = PrefixMapper(**{**mapper.config, "common": settings})
    found.load_state_dict({**mapper.state_dict(), "common": common})
    return found


def _balanced(labels: list[str]) -> list[int]:
    """Return places so that each class is there equally often, and no class a third of all."""
    rng, places = random.Random(0), {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    most = max(len(own) for label, own in places.items() if label)
    order = [place for label, own in places.items() if label for place in _repeat(own, most, rng)]
    return order + _repeat(places.get("", []), len(order) // 2, rng)


def _repeat(places: list[int], count: int, rng: random.Random) -> list[int]:
    return [rng.choice(places) for _ in range(count)] if places else []


def package(recipe: CaptionerRecipe, target: Path) -> None:
    """Write the captioners in half precision, with their language model beside them."""
    for family, captioner in recipe.captioners.items():
        language_model: Any = captioner.language_model
        compact(captioner.mapper)
        compact(language_model)
        steps = recipe.schedule.steps
        captioner.facts["recipe"] = {"method": __name__.rpartition(".")[0], "steps": steps}
        captioner.save_pretrained(target / family, language_model=f"../{LANGUAGE_MODEL}")
        with quiet():
            language_model.save_pretrained(target / LANGUAGE_MODEL)
            recipe.tokenizer.save_pretrained(target / LANGUAGE_MODEL)
