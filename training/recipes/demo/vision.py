"""Tuning of the demo CLIP's image encoder for small images, which its network was not made for.

The first blocks of the network stay as they are: what they make of each image is computed once.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import EfficientNetModel

from clip2clap.models.efficientnet import shorten
from clip2clap.training.recipes.demo.data import SPLITS, DemoData
from clip2clap.training.recipes.demo.features import compute_rows, read_rows
from clip2clap.training.recipes.demo.loop import Stage, compute
from clip2clap.training.recipes.demo.pretrained import Tail
from clip2clap.training.recipes.demo.spaces import Space, class_weights
from clip2clap.training.recipes.demo.words import CLASSES, INNER_NAMES, members

# Small images of the demo classes, other small ones, windows of full-size ones, and such windows
# made small, of a step.
BATCHES = (52, 13, 52, 13)
# Weight of each of these in naming, and in the distance to the embeddings before.
NAMED, ANCHORED = (1.0, 0.5, 0.5, 0.5), (0.4, 4.0, 16.0, 4.0)
# Scale of similarities to the demo classes, and to ImageNet's names and its weight.
SCALE, IMAGENET_SCALE, IMAGENET_WEIGHT = 20.0, 30.0, 3.0


@dataclass(frozen=True)
class ImageEncoder:
    """Network and projection of the demo CLIP's image encoder."""

    network: EfficientNetModel
    projection: nn.Module

    def tail(self) -> nn.Sequential:
        """Return what is tuned, from activations to embeddings before normalization."""
        return nn.Sequential(Tail(self.network), self.projection)


class TuningLoss:
    """Loss of the tail: small images are named, and those of full size stay where they are.

    Args:
        data: The data folder.
        images: `features.image_features`.
        activations: `features.image_activations`.
        before: `ImageEncoder.tail` as it was, whose embeddings are the anchors.
        space: The CLIP's space, whose vectors are the names.
    """

    def __init__(
        self,
        data: DemoData,
        images: dict[str, Tensor],
        activations: np.ndarray,
        before: nn.Module,
        space: Space,
    ):
        count, total = len(images["label"]), len(activations)
        windows = torch.arange(count - (total - count), count)
        self.activations, self.anchors = activations, embed(before, activations)
        # A window made small is to be embedded as the window is.
        self.anchors[count:] = self.anchors[windows]
        rows = torch.cat([torch.arange(count), windows])
        labels, numbers = images["label"][rows], images["number"][rows]
        self.classes = torch.where(labels < 0, _classes_above(data)[numbers], labels)
        counts = len(data.classes), len(data.imagenet_names), len(INNER_NAMES)
        self.names, self.imagenet, _ = space.targets().detach().split(counts)
        full_size, train = images["full_size"], images["split"] == SPLITS.index("train")
        self.parts = [
            torch.where(train & ~full_size & (images["label"] >= 0))[0],
            torch.where(train & ~full_size & (images["label"] < 0))[0],
            torch.where(train & full_size)[0],
            torch.arange(count, total),
        ]
        self.weights = [torch.ones(len(part)) for part in self.parts]
        self.weights[0] = class_weights(images["label"][self.parts[0]]) ** 0.8
        sizes = torch.tensor(BATCHES)
        self.anchor_weights = torch.tensor(ANCHORED).repeat_interleave(sizes)
        self.naming_weights = torch.tensor(NAMED).repeat_interleave(sizes)

    def __call__(self, model: nn.Module, generator: torch.Generator) -> Tensor:
        """Compute the loss of one batch."""
        rows = torch.cat(
            [
                part[torch.multinomial(weights, size, replacement=True, generator=generator)]
                for part, weights, size in zip(self.parts, self.weights, BATCHES, strict=True)
            ]
        )
        inputs = read_rows(self.activations, rows)
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        inputs[mirrored] = inputs[mirrored].flip(3)
        embeds = F.normalize(compute(model, inputs), dim=-1)
        anchors, classes = self.anchors[rows], self.classes[rows]
        known = classes >= 0
        named = F.cross_entropy(
            SCALE * embeds[known] @ self.names.T,
            classes[known],
            label_smoothing=0.05,
            reduction="none",
        )
        weights = self.naming_weights[known]
        moved = (self.anchor_weights * (1 - (embeds * anchors).sum(dim=1))).mean()
        # All but the small images of the demo classes keep their probabilities.
        others = embeds[BATCHES[0] :], anchors[BATCHES[0] :]
        kept = _distilled(*others, SCALE * self.names)
        kept = kept + IMAGENET_WEIGHT * _distilled(*others, IMAGENET_SCALE * self.imagenet)
        return (named * weights).sum() / weights.sum() + moved + kept


def tune_encoder(
    start: ImageEncoder,
    data: DemoData,
    images: dict[str, Tensor],
    activations: np.ndarray,
    space: Space,
    stage: Stage,
) -> ImageEncoder:
    """Tune the last blocks and the projection: all weights but those of depthwise convolutions.

    Args:
        start: Image encoder before, which is changed.
        data: The data folder.
        images: `features.image_features`.
        activations: `features.image_activations`.
        space: The CLIP's space, whose vectors are the names.
        stage: Schedule and checkpoints.
    """
    before = start.tail()

    @cache
    def loss() -> TuningLoss:
        return TuningLoss(data, images, activations, before, space)

    def build() -> nn.Module:
        tail = deepcopy(before)
        shorten(tail)
        for name, parameter in tail.named_parameters():
            # Gradients of depthwise weights take three quarters of a step on a CPU.
            parameter.requires_grad_(not ("depthwise_conv" in name or "squeeze_excite" in name))
        return tail

    tuned = stage.train(build, lambda model, generator: loss()(model, generator))
    before.load_state_dict(tuned.state_dict())
    return start


def embed(encoder: nn.Module, activations: np.ndarray) -> Tensor:
    """Compute embeddings (n, 512) of activations, unit norm."""
    return F.normalize(compute_rows(encoder, activations), dim=-1)


def _distilled(embeds: Tensor, before: Tensor, vectors: Tensor) -> Tensor:
    """Compute the cross-entropy to the probabilities of labels that embeddings had before."""
    return F.cross_entropy(embeds @ vectors.T, (before @ vectors.T).softmax(dim=1))


def _classes_above(data: DemoData) -> Tensor:
    """Return the demo class above each of ImageNet's classes, or -1; the last is of no class."""
    above = torch.full((len(data.imagenet_names) + 1,), -1)
    for number, name in enumerate(data.class_names):
        above[members(CLASSES[name]["imagenet"])] = number
    return above
