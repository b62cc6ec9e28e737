"""The demo models' text towers: a small BERT that keeps MiniLM's sense of words.

A BERT of three of MiniLM's layers and its commonest word pieces learns to say with its pooled
output what MiniLM's mean over tokens says.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer

from clip2clap.training.demo.data import DemoData
from clip2clap.training.demo.features import keep
from clip2clap.training.demo.loop import Fit, Schedule, fit
from clip2clap.training.demo.parts import minilm, sentence_embeds, tokenizer_of
from clip2clap.training.demo.phrases import PHOTO_PHRASES, SOUND_PHRASES, kind_phrases

LAYERS = (0, 2, 5)
VOCABULARY = 8_000
BATCH = 128
SCHEDULE = Schedule(steps=1500, learning_rate=5e-4, ema_decay=0.995)


@dataclass(frozen=True)
class TextTower:
    """The BERT, its tokenizer, and the map from its pooled output to MiniLM's space."""

    model: BertModel
    tokenizer: BertTokenizer
    to_minilm: nn.Linear


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
    texts += [text for name in data.kind_names for text in kind_phrases(name)]
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


def build_student(
    texts: list[str], *, layers: tuple[int, ...] = LAYERS
) -> tuple[Student, BertTokenizer]:
    """Build the student from MiniLM's layers and word pieces, and its tokenizer."""
    teacher, tokenizer = minilm()
    vocabulary = small_vocabulary(texts, tokenizer, VOCABULARY)
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


def train_text(
    data: DemoData, folder: Path, schedule: Schedule = SCHEDULE
) -> tuple[TextTower, Fit]:
    """Train the text tower.

    Args:
        data: The data folder.
        folder: Where the run keeps its checkpoint and MiniLM's embeddings of the texts.
        schedule: Steps and rates.

    Returns:
        The tower, with what it took; `loss` is the squared distance to MiniLM.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = corpus(data)
    student, tokenizer = build_student(texts)
    kept = folder / "minilm.safetensors"
    if not kept.is_file():
        keep({"embeds": sentence_embeds(*minilm(), texts)}, kept)
    targets = load_file(kept)["embeds"]
    tokens = tokenizer(texts, truncation=True).input_ids

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        # The batch is a run of a larger draw's texts by length: little is spent on padding.
        drawn = torch.randint(len(texts), (8 * BATCH,), generator=generator).tolist()
        drawn.sort(key=lambda row: len(tokens[row]))
        start = BATCH * int(torch.randint(8, (), generator=generator))
        rows = drawn[start : start + BATCH]
        batch = tokenizer.pad({"input_ids": [tokens[row] for row in rows]}, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            embeds = model(dict(batch))
        return (embeds.float() - targets[rows]).square().sum(-1).mean()

    result = fit(student, step, schedule, folder, name="text tower")
    trained = result.model
    assert isinstance(trained, Student)
    return TextTower(trained.bert, tokenizer, trained.to_minilm), result
