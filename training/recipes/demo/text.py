"""The demo models' text towers: a small BERT that keeps MiniLM's sense of words.

A BERT of three of MiniLM's layers and its commonest word pieces learns to say with its pooled
output what MiniLM's mean over tokens says, then where texts belong in the two spaces.
"""

import json
import re
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, BertTokenizer

from clip2clap.models.sfx_clap import SfxProjection
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.training.recipes.demo.features import keep
from clip2clap.training.recipes.demo.heads import EMBED_DIM, Space, sound_labels
from clip2clap.training.recipes.demo.loop import Fit, Schedule, compute, fit
from clip2clap.training.recipes.demo.parts import minilm, sentence_embeds, tokenizer_of
from clip2clap.training.recipes.demo.phrases import (
    PHOTO_PHRASES,
    SOUND_PHRASES,
    heard_phrases,
    seen_phrases,
)

LAYERS = (0, 2, 5)
VOCABULARY = 8_000
BATCH = 128
SCHEDULE = Schedule(steps=1500, learning_rate=5e-4, ema_decay=0.995)
TOWERS_SCHEDULE = Schedule(steps=900, learning_rate=5e-4, ema_decay=0.995)
# How near in MiniLM's space a phrase must be to lend a text its label's vector.
NEARNESS = 0.05
# Cosines of a text with all labels become logits by this factor.
SHARPNESS = 20.0


@dataclass(frozen=True)
class Words:
    """A small BERT that knows words, and the texts it learnt from, with MiniLM's embeddings."""

    bert: BertModel
    tokenizer: BertTokenizer
    texts: list[str]
    embeds: Tensor


class Student(nn.Module):
    """The small BERT with a linear map into MiniLM's space.

    The map has neither bias nor normalisation, so that it folds into a projection that follows.
    """

    def __init__(self, bert: BertModel):
        super().__init__()
        self.bert = bert
        self.to_minilm = nn.Linear(bert.config.hidden_size, 384, bias=False)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Embed texts in MiniLM's space, shape (n, 384), close to unit norm."""
        return self.to_minilm(self.bert(**tokens).pooler_output)


def corpus(data: DemoData) -> list[str]:
    """Return the texts that the tower learns from: names and words in phrases, and captions."""
    words = Counter(word for text in data.captions for word in re.findall(r"[a-z]+", text.lower()))
    common = [word for word, count in words.items() if count >= 3]
    names = data.imagenet_names
    texts = [phrase.format(name) for name in names for phrase in PHOTO_PHRASES]
    texts += [phrase.format(w) for w in common for phrase in (*PHOTO_PHRASES[:2], SOUND_PHRASES[0])]
    return list(dict.fromkeys([*texts, *data.captions]))


def small_vocabulary(texts: list[str], tokenizer: BertTokenizer, size: int) -> list[str]:
    """Choose word pieces: special tokens, single characters, then the commonest in the texts."""
    pieces = Counter(
        number
        for row in tokenizer(texts, add_special_tokens=False, truncation=True).input_ids
        for number in row
    )
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    kept = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    kept += [t for t in tokens if re.fullmatch(r"(##)?[a-z0-9.,!?'\"()&:;/-]", t)]
    kept += [tokens[number] for number, _ in pieces.most_common()]
    # Then MiniLM's own order, which is by frequency in English.
    kept += [token for token in tokens if re.fullmatch(r"[a-z]{3,}", token)]
    return list(dict.fromkeys(kept))[:size]


def build_student(texts: list[str], folder: Path) -> tuple[Student, BertTokenizer]:
    """Build the student from MiniLM's layers and word pieces, and its tokenizer."""
    teacher, tokenizer = minilm()
    kept = folder / "vocabulary.json"
    if not kept.is_file():
        kept.write_text(json.dumps(small_vocabulary(texts, tokenizer, VOCABULARY)))
    vocabulary = json.loads(kept.read_text())
    config = BertConfig(
        **{
            **teacher.config.to_dict(),
            "vocab_size": len(vocabulary),
            "num_hidden_layers": len(LAYERS),
            "max_position_embeddings": 64,
            "_name_or_path": "",
        }
    )
    bert = BertModel(config)
    state = teacher.state_dict()
    rows = tokenizer.convert_tokens_to_ids(vocabulary)
    state["embeddings.word_embeddings.weight"] = state["embeddings.word_embeddings.weight"][rows]
    name = "embeddings.position_embeddings.weight"
    state[name] = state[name][:64]
    kept = {
        key.replace(f"encoder.layer.{old}.", f"encoder.layer.{new}."): value
        for new, old in enumerate(LAYERS)
        for key, value in state.items()
        if key.startswith(f"encoder.layer.{old}.")
    }
    rest = {key: value for key, value in state.items() if not key.startswith("encoder.layer.")}
    bert.load_state_dict(
        {k: v for k, v in {**rest, **kept}.items() if k in bert.state_dict()}, strict=True
    )
    return Student(bert), tokenizer_of(vocabulary)


def train_words(data: DemoData, folder: Path, schedule: Schedule = SCHEDULE) -> tuple[Words, Fit]:
    """Train a small BERT to mean by words what MiniLM means.

    Args:
        data: The data folder.
        folder: Where the run keeps its checkpoint, its vocabulary and MiniLM's embeddings.
        schedule: Steps and rates.

    Returns:
        What it learnt, with what it took; `loss` is the squared distance to MiniLM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = corpus(data)
    student, tokenizer = build_student(texts, folder)
    kept = folder / "minilm.safetensors"
    if not kept.is_file():
        keep({"embeds": sentence_embeds(*minilm(), texts)}, kept)
    targets = load_file(kept)["embeds"]
    tokens = tokenizer(texts, truncation=True).input_ids
    lengths = torch.tensor([len(row) for row in tokens])

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = _alike(lengths, generator)
        embeds = compute(model, _padded(tokenizer, tokens, rows.tolist()))
        return (embeds - targets[rows]).square().sum(-1).mean()

    run = fit(student, step, schedule, folder, name="words")
    assert isinstance(run.model, Student)
    return Words(run.model.bert, tokenizer, texts, targets), run


class Head(nn.Module):
    """A pooler of its own for each space, and the projection that follows it."""

    def __init__(self, pooler: nn.Module, projection: nn.Module):
        super().__init__()
        self.pooler = pooler
        self.projection = projection

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (n, tokens, 384) to embeddings (n, 512), unit norm."""
        return F.normalize(self.projection(self.pooler(hidden)).float(), dim=-1)


class TextTowers(nn.Module):
    """The text towers of the demo CLIP and the demo CLAP: one trunk, two heads."""

    def __init__(self, bert: BertModel):
        super().__init__()
        width = bert.config.hidden_size
        self.bert = deepcopy(bert)
        assert self.bert.pooler is not None
        self.clip = Head(deepcopy(self.bert.pooler), nn.Linear(width, EMBED_DIM, bias=False))
        self.clap = Head(deepcopy(self.bert.pooler), SfxProjection(width, EMBED_DIM))
        self.bert.pooler = None

    def forward(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed texts in both spaces, each (n, 512), unit norm."""
        hidden = self.bert(**tokens).last_hidden_state
        return self.clip(hidden), self.clap(hidden)


@dataclass(frozen=True)
class Lessons:
    """What a space wants every text to become, and the label that a text is said of, or -1."""

    targets: Tensor
    labels: Tensor
    vectors: Tensor

    def loss(self, made: Tensor, rows: Tensor) -> Tensor:
        """Compare embeddings (n, 512) of texts with what they should be."""
        away = (1 - (made * self.targets[rows].float()).sum(dim=-1)).mean()
        labels = self.labels[rows]
        if (labels < 0).all():
            return away
        return away + F.cross_entropy(SHARPNESS * made @ self.vectors.T, labels, ignore_index=-1)


def teach(space: Space, labels: Tensor, texts: Tensor) -> Lessons:
    """Say where texts belong in a space.

    Args:
        space: The space.
        labels: The label that each text is said of, or -1, shape (n,).
        texts: MiniLM's embeddings of the texts, shape (n, 384), unit norm.

    Returns:
        A text that is said of a label belongs on the label's vector, any other between those of the
        labels of which something near is said (a kernel regression, Nadaraya 1964).
    """
    vectors = space.targets().detach()
    said = labels >= 0
    phrases, on = texts[said], vectors[labels[said]]
    between = [
        F.normalize((part @ phrases.T / NEARNESS).softmax(dim=-1) @ on, dim=-1).half()
        for part in texts.split(2048)
    ]
    targets = torch.cat(between)
    targets[said] = on.half()
    return Lessons(targets, labels, vectors)


def train_towers(
    data: DemoData,
    words: Words,
    spaces: tuple[Space, Space],
    folder: Path,
    schedule: Schedule = TOWERS_SCHEDULE,
) -> Fit:
    """Train the text towers.

    Args:
        data: The data folder.
        words: `train_words`.
        spaces: The demo CLIP's space and the demo CLAP's.
        folder: Where the run keeps its checkpoint and MiniLM's embeddings.
        schedule: Steps and rates.

    Returns:
        `TextTowers`, with what it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, kinds = data.imagenet_names, data.kind_names
    seen = [[phrase.format(name) for phrase in PHOTO_PHRASES] for name in names]
    seen += [seen_phrases(kind) for kind in kinds]
    heard = [heard_phrases(kind) for kind in kinds]
    others = [name.replace("_", " ") for name in sound_labels(data)[len(kinds) :]]
    heard += [[phrase.format(name) for phrase in SOUND_PHRASES] for name in others]
    phrases = [text for row in (*seen, *heard) for text in row]
    kept = folder / "minilm.safetensors"
    if not kept.is_file():
        keep({"embeds": sentence_embeds(*minilm(), phrases)}, kept)
    embeds = torch.cat([load_file(kept)["embeds"], words.embeds])
    tokens = words.tokenizer([*phrases, *words.texts], truncation=True).input_ids
    lengths = torch.tensor([len(row) for row in tokens])
    lessons = [
        teach(space, _numbered(rows, before, len(embeds)), embeds)
        for space, rows, before in zip(spaces, (seen, heard), (0, sum(map(len, seen))), strict=True)
    ]
    # What is said of the kinds, what is said of the other labels, and the rest, each alike often.
    of_kind = (lessons[0].labels >= len(names)) | (
        (lessons[1].labels >= 0) & (lessons[1].labels < len(kinds))
    )
    of_other = torch.zeros(len(embeds), dtype=torch.bool)
    of_other[: len(phrases)] = True
    groups = [torch.where(mask)[0] for mask in (of_kind, of_other & ~of_kind, ~of_other)]

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, TextTowers)
        total = torch.zeros(())
        for group in groups:
            rows = group[_alike(lengths[group], generator)]
            made = compute(model, _padded(words.tokenizer, tokens, rows.tolist()))
            for embeds_made, lesson in zip(made, lessons, strict=True):
                total = total + lesson.loss(embeds_made, rows)
        return total

    torch.manual_seed(schedule.seed)
    return fit(TextTowers(words.bert), step, schedule, folder, name="text towers")


def _numbered(rows: list[list[str]], before: int, count: int) -> Tensor:
    """Number texts by their row: -1 for the texts before and after."""
    labels = torch.full((count,), -1)
    sizes = torch.tensor([len(row) for row in rows])
    labels[before : before + int(sizes.sum())] = torch.arange(len(rows)).repeat_interleave(sizes)
    return labels


def _padded(tokenizer: BertTokenizer, tokens: list[list[int]], rows: list[int]) -> dict:
    return dict(tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt"))


def _alike(lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Draw rows of like length, so that little is spent on padding, shape (BATCH,)."""
    drawn = torch.randint(len(lengths), (8 * BATCH,), generator=generator)
    drawn = drawn[lengths[drawn].argsort()]
    start = BATCH * int(torch.randint(8, (), generator=generator))
    return drawn[start : start + BATCH]
