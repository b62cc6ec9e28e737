"""Zero-shot classification: prompts of labels, nearest labels, accuracy and confusion."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm

IMAGE_PROMPT = "a photo of a {}"
"""Prompt template of a label for CLIP."""

AUDIO_PROMPT = "the sound of a {}"
"""Prompt template of a label for CLAP."""


def nearest_labels(
    embeds: Tensor, label_embeds: Tensor, labels: Sequence[str], k: int | None = None
) -> list[list[tuple[str, float]]]:
    """Return the labels nearest to each embedding.

    Args:
        embeds: Embeddings, shape (n, d), of any norm.
        label_embeds: Embeddings of the labels in the same space, shape (labels, d), of any norm.
        labels: The labels.
        k: Labels per embedding; all if None.

    Returns:
        For each embedding, labels with their cosine similarities, the nearest first.

    Raises:
        UserError: If the shapes differ.

    Examples:
        >>> nearest_labels(torch.tensor([[1.0, 0.1]]), torch.eye(2), ["dog", "rain"], k=1)
        [[('dog', 0.99...)]]
    """
    if label_embeds.ndim != 2 or embeds.ndim != 2 or embeds.shape[1] != label_embeds.shape[1]:
        raise UserError(
            f"Expected embeds and label_embeds of one size, shapes (n, d) and (labels, d), got "
            f"{tuple(embeds.shape)} and {tuple(label_embeds.shape)}."
        )
    rows = (unit_norm(embeds).cpu() @ unit_norm(label_embeds).cpu().T).tolist()
    return [
        sorted(zip(labels, row, strict=True), key=lambda pair: pair[1], reverse=True)[:k]
        for row in rows
    ]


def label_probabilities(
    similarities: Tensor, logit_scale: float, logit_bias: float | None = None
) -> Tensor:
    """Compute the probabilities of labels from their cosine similarities.

    Args:
        similarities: Shape (..., labels).
        logit_scale: Factor of the similarities that the encoder was trained with.
        logit_bias: Bias of a SigLIP's logits.

    Returns:
        Softmax over the labels; with a bias their sigmoids, independent of one another.
    """
    logits = logit_scale * similarities
    return logits.softmax(dim=-1) if logit_bias is None else (logits + logit_bias).sigmoid()


def describe_labels(
    nearest: Sequence[tuple[str, float]], logit_scale: float, k: int | None = None
) -> list[dict[str, Any]]:
    """Return labels with similarities and probabilities, as reports have them.

    Args:
        nearest: All labels with their cosine similarities, as `nearest_labels` returns them.
        logit_scale: Factor of the similarities that the encoder was trained with.
        k: Labels to return; all if None.

    Returns:
        `label`, `probability` and `similarity` of each, in the same order, rounded to 4 digits.

    Examples:
        >>> describe_labels([("dog", 0.9), ("rain", 0.1)], logit_scale=10, k=1)
        [{'label': 'dog', 'probability': 0.9997, 'similarity': 0.9}]
    """
    similarities = torch.tensor([similarity for _, similarity in nearest])
    probabilities = label_probabilities(similarities, logit_scale).tolist()
    return [
        {"label": label, "probability": round(share, 4), "similarity": round(similarity, 4)}
        for (label, similarity), share in zip(nearest, probabilities, strict=True)
    ][:k]


def confusion_matrix(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count predicted classes (columns) by true class (rows), shape (classes, classes), int64."""
    pairs = target * num_classes + predicted
    return pairs.bincount(minlength=num_classes**2).reshape(num_classes, num_classes)


def balanced_accuracy(predicted: Tensor, target: Tensor) -> float:
    """Compute the accuracy of class indices (n,), averaged over the classes that occur."""
    right = (predicted == target).float()
    return torch.stack([right[target == label].mean() for label in target.unique()]).mean().item()


def nearest_class_means(predicted: Tensor, target: Tensor, same: Tensor, labels: Tensor) -> Tensor:
    """Find the class whose mean target is nearest to each prediction.

    A prediction's own target is left out of the mean of its class, unless it is the only one, so
    that no prediction is found by its own answer. Equal targets count once in a class's mean.

    Args:
        predicted: Shape (n, d), unit norm.
        target: Shape (n, d), unit norm.
        same: Index of each row's distinct target, as `distinct_rows` returns it, shape (n,).
        labels: Class of each row, from 0, shape (n,).

    Returns:
        Nearest class of each row, shape (n,).
    """
    count = int(labels.max()) + 1
    marks = torch.stack([labels, same], dim=1)  # (n, 2)
    pairs, inverse = marks.unique(dim=0, return_inverse=True)
    first = torch.full((len(pairs),), len(labels)).scatter_reduce(
        0, inverse, torch.arange(len(labels)), "amin"
    )
    sums = torch.zeros(count, target.shape[1]).index_add_(0, pairs[:, 0], target[first])
    sizes = pairs[:, 0].bincount(minlength=count)
    scores = predicted @ unit_norm(sums).T  # (n, classes)
    alone = sizes[labels] == 1
    without = unit_norm(sums[labels] - target)
    own = torch.where(alone, scores.gather(1, labels[:, None])[:, 0], (predicted * without).sum(1))
    return scores.scatter(1, labels[:, None], own[:, None]).argmax(1)
