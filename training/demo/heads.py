"""Projections of frozen towers into one joint space: the demo CLIP's and the demo CLAP's.

Texts enter as MiniLM's sentence embeddings. The text towers that ship (see `text`) learn to say the
same, so a projection fitted here serves them too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.embeddings.sfx_clap import SfxProjection
from clip2clap.training.demo.data import DemoData
from clip2clap.training.demo.features import SPLITS
from clip2clap.training.demo.loop import Fit, Schedule, fit
from clip2clap.training.demo.phrases import (
    PHOTO_PHRASES,
    SOUND_PHRASES,
    heard_phrases,
    seen_phrases,
)

EMBED_DIM, TEXT_DIM = 512, 384
BATCH = 256
CLIP_SCHEDULE = Schedule(steps=3000, learning_rate=2e-3, ema_decay=0.995)
CLAP_SCHEDULE = Schedule(steps=1500, learning_rate=1e-3, weight_decay=0.1, ema_decay=0.99)
# How sharply the ImageNet classifier's opinion is copied.
DISTILLATION_TEMPERATURE = 2.0

EmbedTexts = Callable[[Sequence[str]], Tensor]


class Heads(nn.Module):
    """Projections of a tower's features and of MiniLM's sentence embeddings."""

    def __init__(self, tower: nn.Module, text: nn.Module):
        super().__init__()
        self.tower = tower
        self.text = text
        # exp(3) = 20: cosines between -1 and 1 become logits that can be sure.
        self.logit_scale = nn.Parameter(torch.tensor(3.0))

    def logits(self, features: Tensor, texts: Tensor) -> Tensor:
        """Compare features (n, d) with texts (m, 384): logits (n, m)."""
        embeds = F.normalize(self.tower(features), dim=-1)
        return self.logit_scale.exp() * embeds @ F.normalize(self.text(texts), dim=-1).T


@dataclass(frozen=True)
class Phrases:
    """Embedded phrases of each label, to draw one phrase a label from."""

    embeds: Tensor
    counts: Tensor

    @classmethod
    def of(cls, phrases: Sequence[Sequence[str]], embed: EmbedTexts) -> "Phrases":
        """Embed the phrases of each label."""
        counts = torch.tensor([len(row) for row in phrases])
        return cls(embed([phrase for row in phrases for phrase in row]), counts)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Draw one phrase a label, shape (labels, 384)."""
        starts = self.counts.cumsum(0) - self.counts
        places = (torch.rand(len(self.counts), generator=generator) * self.counts).long()
        return self.embeds[starts + places]


def train_clip_heads(
    data: DemoData,
    photos: dict[str, Tensor],
    embed: EmbedTexts,
    folder: Path,
    schedule: Schedule = CLIP_SCHEDULE,
) -> Fit:
    """Fit the demo CLIP's projections.

    Photographs of the kinds learn their kinds by name; all of them learn what EfficientNet-Lite0
    thinks of them, told over the names of ImageNet's classes.

    Args:
        data: The data folder.
        photos: `features.photo_features`.
        embed: MiniLM's sentence embeddings.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        `Heads` of linear maps without bias, (1280 -> 512) and (384 -> 512), with what it took.
    """
    kinds = Phrases.of([seen_phrases(name) for name in data.kind_names], embed)
    names = Phrases.of(
        [[phrase.format(name) for phrase in PHOTO_PHRASES] for name in data.imagenet_names], embed
    )
    train = photos["split"] == SPLITS.index("train")
    of_kind = torch.where(train & (photos["kind"] >= 0))[0]
    weights = _balance(photos["kind"][of_kind]) * (1 + 4 * photos["full_size"][of_kind])
    anything = torch.where(train)[0]
    spread = 1 + 9.0 * photos["full_size"][anything]
    opinions = (photos["logits"] / DISTILLATION_TEMPERATURE).softmax(-1)

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Heads)
        rows = of_kind[torch.multinomial(weights, BATCH, replacement=True, generator=generator)]
        logits = model.logits(photos["features"][rows], kinds.draw(generator))
        named = F.cross_entropy(logits, photos["kind"][rows], label_smoothing=0.1)
        rows = anything[torch.multinomial(spread, BATCH, replacement=True, generator=generator)]
        logits = model.logits(photos["features"][rows], names.draw(generator))
        return named + F.cross_entropy(logits / DISTILLATION_TEMPERATURE, opinions[rows])

    torch.manual_seed(schedule.seed)
    heads = Heads(
        nn.Linear(photos["features"].shape[1], EMBED_DIM, bias=False),
        nn.Linear(TEXT_DIM, EMBED_DIM, bias=False),
    )
    return fit(heads, step, schedule, folder, name="CLIP")


def train_clap_heads(
    data: DemoData,
    sounds: dict[str, Tensor],
    embed: EmbedTexts,
    folder: Path,
    schedule: Schedule = CLAP_SCHEDULE,
) -> Fit:
    """Fit the demo CLAP's projections: recordings learn their labels by name.

    Args:
        data: The data folder.
        sounds: `features.sound_features`.
        embed: MiniLM's sentence embeddings.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        `Heads` of two-layer projections, (512 -> 512) and (384 -> 512), with what it took.
    """
    others = sorted({r.label for r in data.recordings if not r.kind})
    others_named = [name.replace("_", " ") for name in others]
    phrases = [heard_phrases(name) for name in data.kind_names]
    phrases += [[phrase.format(name) for phrase in SOUND_PHRASES] for name in others_named]
    texts = Phrases.of(phrases, embed)
    numbers = {name: len(data.kind_names) + place for place, name in enumerate(others)}
    labels = torch.tensor(
        [
            kind if kind >= 0 else numbers[data.recordings[recording].label]
            for kind, recording in zip(
                sounds["kind"].tolist(), sounds["recording"].tolist(), strict=True
            )
        ]
    )
    train = torch.where(sounds["split"] == SPLITS.index("train"))[0]
    weights = _balance(labels[train])

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Heads)
        rows = train[torch.multinomial(weights, BATCH, replacement=True, generator=generator)]
        partners = rows[torch.randperm(BATCH, generator=generator)]
        # Mixed examples (mixup, https://arxiv.org/abs/1710.09412): 1,600 recordings are few.
        share = 1 - 0.5 * torch.rand(BATCH, 1, generator=generator).square()
        mixed = share * sounds["features"][rows] + (1 - share) * sounds["features"][partners]
        mixed = F.dropout(mixed, 0.2)
        logits = model.logits(mixed, texts.draw(generator))
        first = F.cross_entropy(logits, labels[rows], reduction="none", label_smoothing=0.1)
        second = F.cross_entropy(logits, labels[partners], reduction="none", label_smoothing=0.1)
        return (share[:, 0] * first + (1 - share[:, 0]) * second).mean()

    torch.manual_seed(schedule.seed)
    heads = Heads(SfxProjection(512, EMBED_DIM), SfxProjection(TEXT_DIM, EMBED_DIM))
    return fit(heads, step, schedule, folder, name="CLAP")


def _balance(labels: Tensor) -> Tensor:
    """Weigh rows so that every label is drawn equally often."""
    return 1 / torch.bincount(labels)[labels].float()
