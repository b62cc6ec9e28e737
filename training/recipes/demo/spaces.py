"""Joint embedding spaces of the demo CLIP and the demo CLAP, trained on labels.

A space is a projection of an encoder's features and one free vector per label. The text encoders
(see `text`) later learn to embed a label's names at its vector.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.recipes.demo.data import SPLITS, DemoAudio, DemoData
from clip2clap.training.recipes.demo.loop import Stage
from clip2clap.training.recipes.demo.words import CLASSES, INNER_NAMES, members

EMBED_DIM = 512
CLIP_BATCH = 512
# Weight of the penalty on changes of the pretrained projection.
ANCHOR = 10.0
# How often a full-size image is drawn, relative to a small one.
FULL_SIZE_WEIGHT = 20.0
# How often a class's own images, other images of the class, and typical features are drawn.
SHARES = (0.5, 0.2, 0.3)
# Typical features of each demo class, and of each of ImageNet's.
TYPICAL_ROWS, TYPICAL_COPIES = 160, 6
WORDS_SCALE = 20.0
# Of the CLAP's ridge regression: its weight, and what is added to the features' deviations.
RIDGE, SMALLEST_SCALE = 0.1, 0.05
CLAP_LOGIT_SCALE = 3.0
# One linear map is too small for a GPU to be faster.
CPU = torch.device("cpu")


class Space(nn.Module):
    """Projection of features into a joint space, with one vector per label."""

    def __init__(self, projection: nn.Module, labels: Tensor, logit_scale: float):
        super().__init__()
        self.projection = projection
        self.labels = nn.Parameter(labels.clone())
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))

    def embed(self, features: Tensor) -> Tensor:
        """Map features (n, d) to embeddings (n, 512), unit norm."""
        return F.normalize(self.projection(features), dim=-1)

    def targets(self) -> Tensor:
        """Return the labels' vectors, shape (labels, 512), unit norm."""
        return F.normalize(self.labels, dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """Compute logits (n, labels) of features (n, d)."""
        return self.logit_scale.exp() * self.embed(features) @ self.targets().T


def split_classifier(classifier: nn.Linear, features: Tensor) -> tuple[Tensor, Tensor]:
    """Factorize a linear classifier into a projection and unit-norm class vectors.

    Cosine similarity of `projection @ x` with the class vectors ranks classes as `classifier(x)`
    does: the best approximation of rank 511 over features distributed like the given ones.

    Args:
        classifier: From 1,280 features to 1,000 classes.
        features: Features that it is used on, shape (n, 1280).

    Returns:
        The projection, shape (512, 1280), and the class vectors, shape (1000, 512), unit norm.
    """
    mean = features.mean(dim=0)
    bias = classifier.bias.detach().unsqueeze(1) * mean / mean.dot(mean)
    weight = classifier.weight.detach() + bias
    weight = weight - weight.mean(dim=0)
    moment = features.T @ features / len(features)
    # Regularized by its mean diagonal, for features of classes that are not among these.
    root = torch.linalg.cholesky(moment + moment.diagonal().mean() * torch.eye(len(moment)))
    left, singular, right = torch.linalg.svd(weight @ root, full_matrices=False)
    # The last dimension brings all class vectors to one norm; the projection is zero there.
    rank = EMBED_DIM - 1
    scale = singular[:rank].sqrt()
    classes = left[:, :rank] * scale
    longest = 1.02 * classes.norm(dim=1).max()
    padding = (longest.square() - classes.square().sum(dim=1)).sqrt()
    projection = scale.unsqueeze(1) * torch.linalg.solve_triangular(
        root, right[:rank], upper=False, left=False
    )
    return (
        torch.cat([projection, torch.zeros(1, projection.shape[1])]),
        torch.cat([classes, padding.unsqueeze(1)], dim=1) / longest,
    )


def train_clip_space(
    data: DemoData,
    images: dict[str, Tensor],
    classifier: nn.Linear,
    stage: Stage,
) -> Space:
    """Train the demo CLIP's space.

    It starts as EfficientNet-Lite0's classifier, factorized. Images of the demo classes are then
    classified among them, while the ImageNet logits of all images are distilled.

    Returns:
        A `Space` over a linear map, whose labels are the demo classes, then ImageNet's 1,000.
    """
    features, labels = images["features"], images["label"]
    train = images["split"] == SPLITS.index("train")
    labeled, everything = torch.where(train & (labels >= 0))[0], torch.where(train)[0]
    weights = class_weights(labels[labeled]) * (1 + 4 * images["full_size"][labeled])
    any_weights = 1 + 9.0 * images["full_size"][everything]
    sample = torch.multinomial(
        1 + (FULL_SIZE_WEIGHT - 1) * images["full_size"][everything],
        20_000,
        replacement=True,
        generator=torch.Generator().manual_seed(0),
    )
    projection, classes = split_classifier(classifier, features[everything[sample]])
    embeds = F.normalize(features[labeled] @ projection.T, dim=-1)
    means = torch.stack(
        [embeds[labels[labeled] == label].mean(dim=0) for label in range(len(data.classes))]
    )
    starts = F.normalize(means - embeds.mean(dim=0), dim=-1)
    drift = _Drift(features[everything], projection, classes)

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Space)
        rows = torch.multinomial(weights, CLIP_BATCH, replacement=True, generator=generator)
        rows = labeled[rows]
        logits = model.logits(F.dropout(features[rows], 0.1))[:, : len(starts)]
        own = F.cross_entropy(logits, labels[rows], label_smoothing=0.05)
        rows = torch.multinomial(any_weights, CLIP_BATCH, replacement=True, generator=generator)
        rows = everything[rows]
        teacher = classifier(features[rows]).softmax(dim=-1).detach()
        distilled = F.cross_entropy(model.logits(features[rows])[:, len(starts) :], teacher)
        return own + distilled + drift(model, generator)

    space = Space(_ScaledLinear(projection), torch.cat([starts, classes]), logit_scale=3.0)
    trained = stage.train(lambda: space, batch_loss, device=CPU)
    trained.projection = trained.projection.folded()
    return trained


class _Drift:
    """Penalty on changes of the pretrained projection and class vectors, on random features."""

    def __init__(self, features: Tensor, projection: Tensor, classes: Tensor):
        self.mean, self.std = features.mean(dim=0), features.std(dim=0)
        self.projection, self.classes = projection, classes

    def __call__(self, space: Space, generator: torch.Generator) -> Tensor:
        noise = torch.randn(CLIP_BATCH, len(self.mean), generator=generator)
        features = self.mean + self.std * noise
        before = features @ self.projection.T
        moved = (space.projection(features) - before).square().sum(1) / before.square().sum(1)
        away = (space.targets()[-len(self.classes) :] - self.classes).square().sum(dim=1)
        return ANCHOR * moved.mean() + 0.3 * ANCHOR * away.mean()


class _ScaledLinear(nn.Module):
    """Linear map whose updates are scaled to the size of its pretrained weights."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.start: Tensor
        self.scale: Tensor
        self.register_buffer("start", weight)
        self.register_buffer("scale", weight.abs().mean() / 3)
        self.change = nn.Parameter(torch.zeros_like(weight))

    def folded(self) -> nn.Linear:
        """Return the map as a plain linear layer without bias."""
        weight = self.weight().detach()
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data.copy_(weight)
        return linear.eval()

    def weight(self) -> Tensor:
        """Return the current weights."""
        return self.start + self.scale * self.change

    def forward(self, features: Tensor) -> Tensor:
        """Map features (n, d) into the space (n, 512)."""
        return F.linear(features, self.weight())


class TypicalFeatures:
    """Features of images of any ImageNet class, as a linear classifier expects them.

    The best linear classifier of Gaussian classes with one covariance has weights of the inverse
    covariance times the class means (Fisher 1936,
    https://doi.org/10.1111/j.1469-1809.1936.tb02137.x), so that the covariance times the weights
    is the means. Deviations from them are those of real images.

    Args:
        weight: The classifier's weights, a row for each of ImageNet's classes, shape (1000, d).
        features: Features of full-size images, shape (n, d).
        numbers: Their classes, shape (n,).
    """

    def __init__(self, weight: Tensor, features: Tensor, numbers: Tensor):
        self.mean = features.mean(dim=0)
        deviations, covariance = features - self.mean, torch.cov(features.T)
        covariance += 0.05 * covariance.diagonal().mean() * torch.eye(len(covariance))
        directions = (weight - weight.mean(dim=0)) @ covariance
        expected = directions[numbers]
        factor = (expected * deviations).sum() / expected.square().sum()
        self.directions, self.residuals = factor * directions, deviations - factor * expected

    def draw(self, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """Draw features of classes (n,), shape (n, d): the means once to twice as far out."""
        strength = 1 + torch.rand(len(numbers), 1, generator=generator)
        rows = torch.randint(len(self.residuals), (len(numbers),), generator=generator)
        return self.mean + strength * self.directions[numbers] + self.residuals[rows]

    def draw_embeds(self, numbers: Tensor) -> Tensor:
        """Draw embeddings of classes (n,), shape (n, d), unit norm; the same at each call."""
        return F.normalize(self.draw(numbers, torch.Generator().manual_seed(0)), dim=-1)


def train_words(
    data: DemoData,
    images: dict[str, Tensor],
    classifier: nn.Linear,
    space: Space,
    stage: Stage,
) -> Space:
    """Tune the labels' vectors of the demo CLIP's space, so that they cover all of ImageNet.

    The projection stays as it is. A demo class's vector is trained on its images, and on typical
    features of every ImageNet class below it; the vectors of ImageNet's classes distill the
    classifier on typical features of all of them. They stay near those that they start from.

    Returns:
        The space, whose labels are followed by those of `INNER_NAMES`.
    """
    features, count = images["features"], len(data.classes)
    known = full_size_rows(images)
    weight = classifier.weight.detach()
    typical = TypicalFeatures(weight, features[known], images["number"][known])
    draws = torch.Generator().manual_seed(0)
    pool, targets, weights = _words_pool(data, images, typical, draws)
    everything = typical.draw(torch.arange(classifier.out_features).repeat(TYPICAL_COPIES), draws)
    everything = torch.cat([everything.clamp(min=0), features[known]])
    starts = space.targets().detach()
    space.projection.requires_grad_(False)

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(model, Space)
        rows = torch.multinomial(weights, CLIP_BATCH, replacement=True, generator=generator)
        vectors, chosen = model.targets(), pool[rows]
        cosines = model.embed(F.dropout(chosen, 0.1)) @ vectors[:count].T
        own = F.cross_entropy(WORDS_SCALE * cosines, targets[rows], label_smoothing=0.02)
        chosen = everything[torch.randint(len(everything), (CLIP_BATCH,), generator=generator)]
        teacher = classifier(chosen).softmax(dim=-1).detach()
        distilled = F.cross_entropy(model.logits(chosen)[:, count:], teacher)
        moved = 1 - (vectors * starts).sum(dim=-1)
        return own + distilled + 0.1 * moved[:count].mean() + moved[count:].mean()

    trained = stage.train(lambda: space, batch_loss, device=CPU)
    vectors = trained.targets().detach()
    inner = []
    for text in INNER_NAMES.values():
        below = set(members(text))
        mean = F.normalize(vectors[count:][list(below)].mean(dim=0), dim=0)
        classes = enumerate(data.class_names)
        above = [n for n, name in classes if below <= set(members(CLASSES[name]["imagenet"]))]
        # Near the demo class that is above all of them, if there is one.
        inner.append(F.normalize(mean + vectors[above].sum(dim=0), dim=0))
    trained.labels = nn.Parameter(torch.cat([vectors, torch.stack(inner)]))
    return trained


def _words_pool(
    data: DemoData,
    images: dict[str, Tensor],
    typical: TypicalFeatures,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of every demo class, their class numbers and their sampling weights."""
    features, label, full_size = images["features"], images["label"], images["full_size"]
    train = images["split"] == SPLITS.index("train")
    parts, labels, weights = [], [], []
    for position, name in enumerate(data.class_names):
        below = torch.tensor(members(CLASSES[name]["imagenet"]))
        own, other = train & (label == position), train & (label < 0)
        drawn = below.repeat_interleave(-(-TYPICAL_ROWS // len(below)))
        sources = (
            features[own & ~full_size],
            features[own & full_size | other & torch.isin(images["number"], below)],
            typical.draw(drawn, generator).clamp(min=0),
        )
        total = sum(share for share, part in zip(SHARES, sources, strict=True) if len(part))
        for share, part in zip(SHARES, sources, strict=True):
            parts.append(part)
            labels.append(torch.full((len(part),), position))
            weights.append(torch.full((len(part),), share / total / max(len(part), 1)))
    return torch.cat(parts), torch.cat(labels), torch.cat(weights)


def fit_clap_space(
    data: DemoData, audio: dict[str, Tensor], vectors: Tensor | None = None
) -> Space:
    """Fit the demo CLAP's space, with labels `audio_classes`, by ridge regression.

    Args:
        data: The data folder.
        audio: `features.audio_features`.
        vectors: The labels' vectors, shape (labels, 512); random by default.
    """
    names = audio_classes(data)
    if vectors is None:
        vectors = torch.randn(len(names), EMBED_DIM, generator=torch.Generator().manual_seed(0))
    rows = torch.where((audio["split"] == SPLITS.index("train")) & (audio["copy"] == 0))[0]
    chosen = [data.audio[index] for index in audio["index"][rows].tolist()]
    labels = torch.tensor([audio_class_index(one, names) for one in chosen])
    features = audio["features"][rows]
    # Classes count by their size to the power of 0.3.
    weights = class_weights(labels) ** 0.7
    weights = (weights / weights.sum()).unsqueeze(1)
    targets = F.normalize(vectors, dim=1)[labels]
    mean, target_mean = (weights * features).sum(dim=0), (weights * targets).sum(dim=0)
    scale = (weights * (features - mean).square()).sum(dim=0).sqrt() + SMALLEST_SCALE
    scaled = (features - mean) / scale
    moments = scaled.T @ (weights * scaled) + RIDGE * torch.eye(len(mean))
    solution = torch.linalg.solve(moments, scaled.T @ (weights * (targets - target_mean)))
    projection = nn.Linear(*solution.shape)
    weight = (solution / scale.unsqueeze(1)).T
    projection.load_state_dict({"weight": weight, "bias": target_mean - weight @ mean})
    return Space(projection, vectors, CLAP_LOGIT_SCALE).requires_grad_(False).eval()


def audio_classes(data: DemoData) -> list[str]:
    """Return `audio_class_names`, then the categories of no class."""
    others = sorted({audio.category for audio in data.audio if not audio.label})
    return [*data.audio_class_names, *others]


def audio_class_index(audio: DemoAudio, names: Sequence[str]) -> int:
    """Return the number of a file's class among `audio_classes`."""
    return names.index(audio.label or audio.category)


def class_means(embeds: Tensor, labels: Tensor, count: int) -> Tensor:
    """Average embeddings (n, d) by label, to unit norm (count, d); zero for labels without rows."""
    sums = torch.zeros(count, embeds.shape[-1]).index_add_(0, labels, embeds)
    return F.normalize(sums, dim=1)


def class_weights(labels: Tensor) -> Tensor:
    """Return sampling weights (n,) with which every label is drawn equally often."""
    return 1 / torch.bincount(labels)[labels].float()


def full_size_rows(images: dict[str, Tensor]) -> Tensor:
    """Return the rows of full-size training images whose ImageNet class is known."""
    train = images["split"] == SPLITS.index("train")
    return torch.where(train & images["full_size"] & (images["number"] >= 0))[0]


def draw_images(images: dict[str, Tensor]) -> Tensor:
    """Draw rows of training images of the demo classes, all equally often."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.where((images["split"] == SPLITS.index("train")) & (images["label"] >= 0))[0]
    weights = class_weights(images["label"][rows])
    return rows[torch.multinomial(weights, len(rows), replacement=True, generator=generator)]


def draw_partners(labels: Tensor, audio: dict[str, Tensor]) -> Tensor:
    """Draw a row of training audio of each class (n,)."""
    generator = torch.Generator().manual_seed(0)
    partners = torch.empty_like(labels)
    train = audio["split"] == SPLITS.index("train")
    for label in labels.unique():
        choices = torch.where(train & (audio["label"] == label))[0]
        places = torch.where(labels == label)[0]
        drawn = torch.randint(len(choices), (len(places),), generator=generator)
        partners[places] = choices[drawn]
    return partners


def mixup_weights(count: int, generator: torch.Generator) -> Tensor:
    """Draw weights (count,) in (0.5, 1] for mixup (https://arxiv.org/abs/1710.09412)."""
    return 1 - 0.5 * torch.rand(count, generator=generator).square()


def random_bands(
    count: int, size: int, widest: int, last_start: int, generator: torch.Generator
) -> Tensor:
    """Draw one band per row, to mask: booleans (count, size).

    Bands are narrower than `widest` and start before `last_start`.
    """
    width = torch.randint(widest, (count, 1), generator=generator)
    start = torch.randint(last_start, (count, 1), generator=generator)
    places = torch.arange(size)
    return (places >= start) & (places < start + width)
