"""Text encoders of the demo models: a small BERT distilled from MiniLM.

A BERT of three of MiniLM's layers and its most common word pieces is trained to predict MiniLM's
sentence embeddings, then the embeddings of texts in the two joint spaces.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertModel, BertTokenizer

from clip2clap.core.files import save_tensors
from clip2clap.models.yamnet_clap import ClapProjection
from clip2clap.training.recipes.demo.data import DemoData
from clip2clap.training.recipes.demo.loop import Stage, compute
from clip2clap.training.recipes.demo.pretrained import build_tokenizer, minilm, sentence_embeds
from clip2clap.training.recipes.demo.spaces import EMBED_DIM, Space, audio_classes
from clip2clap.training.recipes.demo.words import (
    AUDIO_TEMPLATES,
    IMAGE_TEMPLATES,
    INNER_NAMES,
    audio_phrases,
    image_phrases,
)

LAYERS = (0, 2, 5)
VOCABULARY, MOST_TOKENS = 8_000, 64
BATCH = 128
# Temperature over MiniLM cosines with which a text's target is averaged from labels' vectors.
TEMPERATURE = 0.05
LOGIT_SCALE = 20.0


@dataclass(frozen=True)
class TextStudent:
    """Distilled BERT, and the texts that it was distilled on, with MiniLM's embeddings."""

    bert: BertModel
    tokenizer: BertTokenizer
    texts: list[str]
    embeds: Tensor


class Student(nn.Module):
    """Small BERT with a linear map into MiniLM's space.

    The map has neither bias nor normalization, so that a later projection can absorb it.
    """

    def __init__(self, bert: BertModel):
        super().__init__()
        self.bert = bert
        self.to_minilm = nn.Linear(bert.config.hidden_size, 384, bias=False)

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        """Embed texts in MiniLM's space, shape (n, 384), close to unit norm."""
        return self.to_minilm(self.bert(**tokens).pooler_output)


def corpus(data: DemoData) -> list[str]:
    """Return the texts to distill on: class names and common words in templates, and captions."""
    words = Counter(word for text in data.captions for word in re.findall(r"[a-z]+", text.lower()))
    common = [word for word, count in words.items() if count >= 3]
    templates = (*IMAGE_TEMPLATES[:2], AUDIO_TEMPLATES[0])
    texts = [template.format(n) for n in data.imagenet_names for template in IMAGE_TEMPLATES]
    texts += [template.format(word) for word in common for template in templates]
    return list(dict.fromkeys([*texts, *data.captions]))


def small_vocabulary(texts: list[str], tokenizer: BertTokenizer, size: int) -> list[str]:
    """Choose word pieces: special tokens, single characters, then the most common in the texts."""
    pieces = Counter(
        number
        for row in tokenizer(texts, add_special_tokens=False, truncation=True).input_ids
        for number in row
    )
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    chosen = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    chosen += [t for t in tokens if re.fullmatch(r"(##)?[a-z0-9.,!?'\"()&:;/-]", t)]
    chosen += [tokens[number] for number, _ in pieces.most_common()]
    # Then MiniLM's own order, which is by frequency in English.
    chosen += [token for token in tokens if re.fullmatch(r"[a-z]{3,}", token)]
    return list(dict.fromkeys(chosen))[:size]


def build_student(texts: list[str], folder: Path) -> tuple[Student, BertTokenizer]:
    """Build the student from MiniLM's layers and word pieces, and its tokenizer."""
    bert, tokenizer = minilm()
    path = folder / "vocabulary.json"
    if not path.is_file():
        path.write_text(json.dumps(small_vocabulary(texts, tokenizer, VOCABULARY)))
    vocabulary = json.loads(path.read_text())
    rows = tokenizer.convert_tokens_to_ids(vocabulary)
    embeddings: Any = bert.embeddings
    for name, kept, padding in (("word", rows, 0), ("position", list(range(MOST_TOKENS)), None)):
        weight = getattr(embeddings, f"{name}_embeddings").weight.detach()[kept]
        smaller = nn.Embedding.from_pretrained(weight, freeze=False, padding_idx=padding)
        setattr(embeddings, f"{name}_embeddings", smaller)
    layers: Any = bert.encoder.layer
    bert.encoder.layer = nn.ModuleList(layers[number] for number in LAYERS)
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": MOST_TOKENS}
    bert.config.update({**sizes, "num_hidden_layers": len(LAYERS), "_name_or_path": ""})
    return Student(bert), build_tokenizer(vocabulary)


def train_student(data: DemoData, stage: Stage) -> TextStudent:
    """Distill MiniLM into a small BERT; the loss is the squared distance to MiniLM."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    texts = corpus(data)
    student, tokenizer = build_student(texts, stage.folder)
    targets = _minilm_embeds(texts, stage.folder)
    batches = _TextBatches(tokenizer, texts)

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = batches.draw(generator)
        embeds = compute(model, batches.tokens(rows))
        return (embeds - targets[rows]).square().sum(-1).mean()

    bert = stage.train(lambda: student, batch_loss).bert
    return TextStudent(bert, tokenizer, texts, targets)


class Head(nn.Module):
    """Pooler and projection of one space."""

    def __init__(self, pooler: nn.Module, projection: nn.Module):
        super().__init__()
        self.pooler = pooler
        self.projection = projection

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (n, tokens, 384) to embeddings (n, 512), unit norm."""
        return F.normalize(self.projection(self.pooler(hidden)).float(), dim=-1)


class TextEncoders(nn.Module):
    """Text encoders of the demo CLIP and the demo CLAP: one BERT, two heads."""

    def __init__(self, bert: BertModel):
        super().__init__()
        width = bert.config.hidden_size
        self.bert = deepcopy(bert)
        assert self.bert.pooler is not None
        self.clip = Head(deepcopy(self.bert.pooler), nn.Linear(width, EMBED_DIM, bias=False))
        self.clap = Head(deepcopy(self.bert.pooler), ClapProjection(width, EMBED_DIM))
        self.bert.pooler = None

    def forward(self, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embed texts in both spaces, each (n, 512), unit norm."""
        hidden = self.bert(**tokens).last_hidden_state
        return self.clip(hidden), self.clap(hidden)


@dataclass(frozen=True)
class TextTargets:
    """Target embedding of every text in a space, its label or -1, and the labels' vectors."""

    embeds: Tensor
    labels: Tensor
    vectors: Tensor

    def loss(self, embeds: Tensor, rows: Tensor) -> Tensor:
        """Compute the loss of the texts' embeddings (n, 512)."""
        distance = (1 - (embeds * self.embeds[rows].float()).sum(dim=-1)).mean()
        labels = self.labels[rows]
        if (labels < 0).all():
            return distance
        logits = LOGIT_SCALE * embeds @ self.vectors.T
        return distance + F.cross_entropy(logits, labels, ignore_index=-1)


def text_targets(space: Space, labels: Tensor, texts: Tensor) -> TextTargets:
    """Compute the target embeddings of texts in a space.

    Args:
        space: The space.
        labels: Label of each text, or -1, shape (n,).
        texts: MiniLM's embeddings of the texts, shape (n, 384), unit norm.

    Returns:
        The target of a text with a label is the label's vector; that of any other is the mean of
        the vectors of labeled texts, weighted by similarity (kernel regression, Nadaraya 1964).
    """
    vectors = space.targets().detach()
    labeled = labels >= 0
    phrases, phrase_vectors = texts[labeled], vectors[labels[labeled]]
    means = [
        F.normalize(
            (part @ phrases.T / TEMPERATURE).softmax(dim=-1) @ phrase_vectors, dim=-1
        ).half()
        for part in texts.split(2048)
    ]
    targets = torch.cat(means)
    targets[labeled] = phrase_vectors.half()
    return TextTargets(targets, labels, vectors)


def train_text_encoders(
    data: DemoData, student: TextStudent, spaces: tuple[Space, Space], stage: Stage
) -> TextEncoders:
    """Train `TextEncoders` on the spaces of the demo CLIP and the demo CLAP."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    names, classes = data.imagenet_names, data.class_names
    image_texts = [image_phrases(name) for name in classes]
    image_texts += [[t.format(name) for t in IMAGE_TEMPLATES] for name in (*names, *INNER_NAMES)]
    audio_texts = [audio_phrases(name) for name in classes]
    others = [name.replace("_", " ") for name in audio_classes(data)[len(classes) :]]
    audio_texts += [[template.format(name) for template in AUDIO_TEMPLATES] for name in others]
    phrases = [text for row in (*image_texts, *audio_texts) for text in row]
    minilm_embeds = torch.cat([_minilm_embeds(phrases, stage.folder), student.embeds])
    labeled = torch.arange(len(minilm_embeds)) < len(phrases)
    offset = sum(map(len, image_texts))
    clip_targets, clap_targets = targets = [
        text_targets(space, _number_rows(rows, before, len(labeled)), minilm_embeds)
        for space, rows, before in zip(spaces, (image_texts, audio_texts), (0, offset), strict=True)
    ]
    # Texts of the demo classes, of the other labels, and of none, each equally often.
    of_classes = torch.stack([t.labels for t in (clip_targets, clap_targets)]).add(1)
    of_classes = ((of_classes > 0) & (of_classes <= len(classes))).any(dim=0)
    groups = [torch.where(mask)[0] for mask in (of_classes, labeled & ~of_classes, ~labeled)]
    batches = _TextBatches(student.tokenizer, [*phrases, *student.texts])

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, TextEncoders)
        total = torch.zeros(())
        for group in groups:
            rows = batches.draw(generator, group)
            for predicted, target in zip(
                compute(model, batches.tokens(rows)), targets, strict=True
            ):
                total = total + target.loss(predicted, rows)
        return total

    return stage.train(lambda: TextEncoders(student.bert), batch_loss)


class _TextBatches:
    """Tokenized texts, to draw batches of similar length from, with little padding."""

    def __init__(self, tokenizer: BertTokenizer, texts: Sequence[str]):
        self.tokenizer = tokenizer
        self.ids = tokenizer(list(texts), truncation=True).input_ids
        self.lengths = torch.tensor([len(row) for row in self.ids])

    def draw(self, generator: torch.Generator, rows: Tensor | None = None) -> Tensor:
        """Draw row numbers (BATCH,), of all texts or of some rows."""
        lengths = self.lengths if rows is None else self.lengths[rows]
        drawn = torch.randint(len(lengths), (8 * BATCH,), generator=generator)
        drawn = drawn[lengths[drawn].argsort()]
        start = BATCH * int(torch.randint(8, (), generator=generator))
        drawn = drawn[start : start + BATCH]
        return drawn if rows is None else rows[drawn]

    def tokens(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the padded tokens of some rows."""
        ids = [self.ids[row] for row in rows.tolist()]
        return dict(self.tokenizer.pad({"input_ids": ids}, return_tensors="pt"))


def _minilm_embeds(texts: list[str], folder: Path) -> Tensor:
    """Compute MiniLM's embeddings of texts, or read them from an earlier run's file."""
    path = folder / "minilm.safetensors"
    if not path.is_file():
        save_tensors({"embeds": sentence_embeds(*minilm(), texts)}, path)
    return load_file(path)["embeds"]


def _number_rows(rows: list[list[str]], before: int, count: int) -> Tensor:
    """Label texts by their row; -1 for the texts before and after."""
    labels = torch.full((count,), -1)
    sizes = torch.tensor([len(row) for row in rows])
    labels[before : before + int(sizes.sum())] = torch.arange(len(rows)).repeat_interleave(sizes)
    return labels
