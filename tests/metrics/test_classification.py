"""Classification metrics with known values."""

import pytest
import torch
from sklearn import metrics

from clip2clap.core.errors import UserError
from clip2clap.metrics.classification import (
    balanced_accuracy,
    confusion_matrix,
    describe_labels,
    nearest_class_means,
    nearest_labels,
)


def test_confusion_and_balanced_accuracy_match_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.randint(5, (2, 200), generator=generator)
    expected = metrics.confusion_matrix(target, predicted)
    assert confusion_matrix(predicted, target, 5).tolist() == expected.tolist()
    assert balanced_accuracy(predicted, target) == pytest.approx(
        metrics.balanced_accuracy_score(target, predicted)
    )


def test_confusion_has_a_row_for_a_class_that_does_not_occur() -> None:
    found = confusion_matrix(torch.tensor([2, 0]), torch.tensor([0, 0]), 3)
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_class_is_not_found_by_its_own_answer() -> None:
    # Two of a class, opposite to each other: without its own, each is nearer to the other class.
    target = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, 0.8, 0.6]])
    labels = torch.tensor([0, 0, 1, 1])
    assert nearest_class_means(target, target, torch.arange(4), labels).tolist() == [1, 1, 1, 1]
    # Rows of one recording are one answer, and a class's only answer stays.
    same = torch.tensor([0, 0, 1, 2])
    alike = torch.stack([target[0], target[0], target[2], target[3]])
    assert nearest_class_means(alike, alike, same, labels).tolist() == [0, 0, 1, 1]


def test_nearest_labels_ignore_norms_and_come_in_order() -> None:
    label_embeds = torch.tensor([[1.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    (found,) = nearest_labels(torch.tensor([[2.0, 1.0]]), label_embeds, ["a", "b", "c"], k=2)
    assert [label for label, _ in found] == ["a", "b"]
    assert found[0][1] == pytest.approx(2 / 5**0.5)


def test_labels_of_another_space_are_refused() -> None:
    with pytest.raises(UserError, match="of one size"):
        nearest_labels(torch.ones(1, 3), torch.ones(2, 2), ["a", "b"])


def test_probabilities_of_labels_are_the_softmax_of_scaled_cosines() -> None:
    embeds, labels = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    (nearest,) = nearest_labels(embeds[:1], labels, ["a", "b", "c", "d"])
    cosines = torch.nn.functional.cosine_similarity(embeds[:1], labels)
    expected = dict(zip("abcd", (10 * cosines).softmax(0).tolist(), strict=True))
    found = describe_labels(nearest, logit_scale=10)
    assert [(each["label"], each["similarity"]) for each in found] == [
        (label, pytest.approx(similarity, abs=1e-4)) for label, similarity in nearest
    ]
    probabilities = {each["label"]: each["probability"] for each in found}
    assert probabilities == pytest.approx(expected, abs=1e-4)
    assert describe_labels(nearest, logit_scale=10, k=2) == found[:2]
