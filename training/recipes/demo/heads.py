"""The joint spaces of the demo CLIP and the demo CLAP, learnt from labels.

A space is a map from a tower's features and one free vector for every label. Words come after: the
text towers (see `text`) learn to put a label's name, and what people say instead, on its vector.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.models.sfx_clap import SfxAudioModel, SfxProjection, pool_maps
from clip2clap.training.recipes.demo.data import DemoData, Recording
from clip2clap.training.recipes.demo.features import SPLITS
from clip2clap.training.recipes.demo.loop import Fit, Schedule, compute, fit

EMBED_DIM = 512
CLIP_BATCH, CLAP_BATCH = 512, 48
CLIP_SCHEDULE = Schedule(steps=600, learning_rate=3e-3, warmup=50, weight_decay=0.0, ema_decay=0.98)
CLAP_SCHEDULE = Schedule(
    steps=1600, learning_rate=5e-4, warmup=50, weight_decay=0.05, ema_decay=0.99
)
CLAP_AVERAGE_SCHEDULE = Schedule(
    steps=700, learning_rate=3e-4, warmup=50, weight_decay=0.05, ema_decay=None, seed=1
)
# How firmly the map from features stays what it was before photographs were named.
ANCHOR = 10.0
FULL_SIZE_SHARE = 20.0


class Space(nn.Module):
    """A map from features into the joint space, and the vectors of labels in it."""

    def __init__(self, tower: nn.Module, labels: Tensor, logit_scale: float):
        super().__init__()
        self.tower = tower
        self.labels = nn.Parameter(labels.clone())
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def embed(self, features: Tensor) -> Tensor:
        """Map features (n, d) to embeddings (n, 512), unit norm."""
        return F.normalize(self.tower(features), dim=-1)

    def targets(self) -> Tensor:
        """Return the labels' vectors, shape (labels, 512), unit norm."""
        return F.normalize(self.labels, dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """Compare features (n, d) with every label: logits (n, labels)."""
        return self.logit_scale.exp() * self.embed(features) @ self.targets().T


class AudioSpace(Space):
    """A space over the maps of the audio tower's lower blocks; its last block learns too."""

    def __init__(self, audio_model: SfxAudioModel, labels: int):
        rows = F.normalize(torch.randn(labels, EMBED_DIM), dim=1)
        super().__init__(SfxProjection(EMBED_DIM, EMBED_DIM), rows, logit_scale=2.7)
        self.block = audio_model.blocks[-1]

    def train(self, mode: bool = True) -> "AudioSpace":
        """Batch statistics stay aiSFX's own: our batches are small and mixed."""
        super().train(mode)
        self.block.eval()
        return self

    def features(self, maps: Tensor) -> Tensor:
        """Map what the lower blocks made (n, 256, 12, 12) to features (n, 512)."""
        return pool_maps(self.block(maps))

    def forward(self, maps: Tensor) -> Tensor:
        """Compare what the lower blocks made (n, 256, 12, 12) with every label: logits."""
        return self.logits(F.dropout(self.features(maps), 0.2, self.training))


def split_classifier(classifier: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """Split a classifier into a map from features and unit vectors of its classes.

    `classifier(x)` and `image @ x` compared with the classes by cosine rank the classes alike: the
    best approximation, over features spread like the given ones, that 512 dimensions allow.

    Args:
        classifier: From 1,280 features to 1,000 classes.
        features: Features that it is used on, shape (n, 1280).

    Returns:
        The map, shape (512, 1280), and the classes' vectors, shape (1000, 512), unit norm.
    """
    mean = features.mean(dim=0)
    weight = classifier.weight.detach() + classifier.bias.detach().unsqueeze(1) * mean / mean.dot(
        mean
    )
    weight = weight - weight.mean(dim=0)
    spread = features.T @ features / len(features)
    # As much again in every direction: features of classes that are not among these.
    root = torch.linalg.cholesky(spread + spread.diagonal().mean() * torch.eye(len(spread)))
    left, strengths, right = torch.linalg.svd(weight @ root, full_matrices=False)
    # One dimension is left for bringing all classes to one norm; no feature reaches it.
    kept = EMBED_DIM - 1
    strength = strengths[:kept].sqrt()
    classes = left[:, :kept] * strength
    longest = 1.02 * classes.norm(dim=1).max()
    filling = (longest.square() - classes.square().sum(dim=1)).sqrt()
    image = strength.unsqueeze(1) * torch.linalg.solve_triangular(
        root, right[:kept], upper=False, left=False
    )
    return (
        torch.cat([image, torch.zeros(1, image.shape[1])]),
        torch.cat([classes, filling.unsqueeze(1)], dim=1) / longest,
    )


def train_clip_space(
    data: DemoData,
    photos: dict[str, Tensor],
    classifier: nn.Linear,
    folder: Path,
    schedule: Schedule = CLIP_SCHEDULE,
) -> Fit:
    """Fit the demo CLIP's space.

    It starts as EfficientNet-Lite0's own classifier, split in two; photographs of the kinds then
    find their kinds' vectors, while all of them keep what the classifier thinks of them.

    Args:
        data: The data folder.
        photos: `features.photo_features`.
        classifier: EfficientNet-Lite0's classifier of ImageNet.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `Space` over a linear map; its labels are ImageNet's 1,000 classes, then the kinds.
    """
    features, kinds = photos["features"], photos["kind"]
    train = photos["split"] == SPLITS.index("train")
    of_kind, anything = torch.where(train & (kinds >= 0))[0], torch.where(train)[0]
    weights = balance(kinds[of_kind]) * (1 + 4 * photos["full_size"][of_kind])
    spread = 1 + 9.0 * photos["full_size"][anything]
    fair = torch.multinomial(
        1 + (FULL_SIZE_SHARE - 1) * photos["full_size"][anything],
        20_000,
        replacement=True,
        generator=torch.Generator().manual_seed(0),
    )
    image, classes = split_classifier(classifier, features[anything[fair]])
    mean, deviation = features[anything].mean(dim=0), features[anything].std(dim=0)
    embeds = F.normalize(features[of_kind] @ image.T, dim=-1)
    starts = torch.stack(
        [embeds[kinds[of_kind] == kind].mean(dim=0) for kind in range(len(data.kinds))]
    )
    starts = F.normalize(starts - embeds.mean(dim=0), dim=-1)
    tower = _Scaled(image)
    names = len(classes)

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Space)
        rows = torch.multinomial(weights, CLIP_BATCH, replacement=True, generator=generator)
        rows = of_kind[rows]
        logits = model.logits(F.dropout(features[rows], 0.1))[:, names:]
        named = F.cross_entropy(logits, kinds[rows], label_smoothing=0.05)
        rows = torch.multinomial(spread, CLIP_BATCH, replacement=True, generator=generator)
        rows = anything[rows]
        opinions = classifier(features[rows]).softmax(dim=-1).detach()
        kept = F.cross_entropy(model.logits(features[rows])[:, :names], opinions)
        noise = torch.randn(CLIP_BATCH, features.shape[1], generator=generator)
        anywhere = mean + deviation * noise
        before = anywhere @ image.T
        moved = (model.tower(anywhere) - before).square().sum(1) / before.square().sum(1)
        away = (model.targets()[:names] - classes).square().sum(dim=1)
        return named + kept + ANCHOR * moved.mean() + 0.3 * ANCHOR * away.mean()

    torch.manual_seed(schedule.seed)
    space = Space(tower, torch.cat([classes, starts]), logit_scale=3.0)
    # A linear map is no work for a GPU.
    run = fit(space, step, schedule, folder, name="CLIP", device=torch.device("cpu"))
    assert isinstance(run.model, Space)
    learnt: Any = run.model.tower
    run.model.tower = learnt.folded()
    return run


class _Scaled(nn.Module):
    """A linear map that learns at the pace of its weights' size, which a common rate ignores."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.start: Tensor
        self.pace: Tensor
        self.register_buffer("start", weight)
        self.register_buffer("pace", weight.abs().mean() / 3)
        self.change = nn.Parameter(torch.zeros_like(weight))

    def folded(self) -> nn.Linear:
        """Return the map as a plain linear layer without bias."""
        weight = self.weight().detach()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data.copy_(weight)
        return linear.eval()

    def weight(self) -> Tensor:
        """Return the weights as they are now."""
        return self.start + self.pace * self.change

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) into the space (n, 512)."""
        return F.linear(features, self.weight())


def sound_labels(data: DemoData) -> list[str]:
    """Return the labels of recordings: the kinds, then the categories that are of no kind."""
    others = sorted({recording.label for recording in data.recordings if not recording.kind})
    return [*data.kind_names, *others]


def train_clap_space(
    data: DemoData,
    maps: dict[str, Tensor],
    space: AudioSpace,
    folder: Path,
    schedule: Schedule = CLAP_SCHEDULE,
) -> Fit:
    """Fit the demo CLAP's space, and aiSFX's last block with it.

    Args:
        data: The data folder.
        maps: `features.sound_maps`.
        space: The space to start from, over aiSFX's last block; its labels are `sound_labels`.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        An `AudioSpace` with the same labels.
    """
    names = sound_labels(data)
    labels = torch.tensor([label_of(recording, names) for recording in data.recordings])
    train = torch.tensor([recording.split == "train" for recording in data.recordings])
    rows = torch.where(train[maps["recording"]])[0]
    owners = maps["recording"][rows]
    of_label = torch.bincount(labels[owners.unique()], minlength=len(names)).float()
    # Every recording as often as any of its label; rarer labels more often than their share.
    weights = 1 / torch.bincount(owners)[owners] / of_label[labels[owners]] ** 0.7

    def step(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, AudioSpace)
        drawn = rows[torch.multinomial(weights, CLAP_BATCH, replacement=True, generator=generator)]
        partners = torch.randperm(CLAP_BATCH, generator=generator)
        named = labels[maps["recording"][drawn]]
        # Mixed examples (mixup, https://arxiv.org/abs/1710.09412): 1,900 recordings are few.
        share = 1 - 0.5 * torch.rand(CLAP_BATCH, generator=generator).square()
        seen = maps["maps"][drawn].float()
        seen = _weigh(share, seen) + _weigh(1 - share, seen[partners])
        seen = _mask(_mask(seen, 2, generator), 3, generator)
        logits = compute(model, seen)
        first = F.cross_entropy(logits, named, reduction="none", label_smoothing=0.1)
        second = F.cross_entropy(logits, named[partners], reduction="none", label_smoothing=0.1)
        return (share * first + (1 - share) * second).mean()

    return fit(space, step, schedule, folder, name="CLAP")


def label_means(embeds: Tensor, labels: Tensor, count: int) -> Tensor:
    """Average embeddings (n, d) over each of `count` labels, to unit norm; zero where none is."""
    sums = torch.zeros(count, embeds.shape[-1]).index_add_(0, labels, embeds)
    return F.normalize(sums, dim=1)


def balance(labels: Tensor) -> Tensor:
    """Weigh rows so that every label is drawn equally often."""
    return 1 / torch.bincount(labels)[labels].float()


def label_of(recording: Recording, names: Sequence[str]) -> int:
    """Give the number of a recording's label among `sound_labels`."""
    return names.index(recording.kind or recording.label)


def _weigh(shares: Tensor, maps: Tensor) -> Tensor:
    return shares[:, None, None, None] * maps


def _mask(maps: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """Blank up to four rows or columns (SpecAugment, https://arxiv.org/abs/1904.08779)."""
    size = maps.shape[dim]
    width = torch.randint(5, (len(maps), 1), generator=generator)
    start = torch.randint(size, (len(maps), 1), generator=generator)
    places = torch.arange(size)
    inside = (places >= start) & (places < start + width)
    return maps.masked_fill(inside.unflatten(1, (1, size, 1) if dim == 2 else (1, 1, size)), 0)
