"""Metrics of captions: known values and bounds."""

import math

import pytest

from clip2clap.core.errors import UserError
from clip2clap.metrics.captions import bleu, cider, rouge_l

TRUTHS = [["A dog barks loudly.", "a dog is barking"], ["rain falls on a roof", "it rains"]]


def test_a_repeated_reference_scores_highest_and_another_items_lowest():
    same = [own[0] for own in TRUTHS]
    other = same[::-1]
    assert cider(same, TRUTHS) > cider(["a dog", "rain on a roof"], TRUTHS) > cider(other, TRUTHS)
    assert rouge_l(same, TRUTHS) == pytest.approx(1)
    assert bleu(same, TRUTHS) == pytest.approx([1, 1, 1, 1], abs=1e-6)


def test_cider_of_one_reference_each_is_10():
    truths = [["a dog barks very loudly"], ["rain falls on the old roof"]]
    assert cider([own[0] for own in truths], truths) == pytest.approx(10)


def test_bleu_1_counts_words_and_penalizes_brevity():
    # Three of three words are right, of the four that the reference has.
    assert bleu(["a dog barks"], [["a dog barks loudly"]])[0] == pytest.approx(math.exp(-1 / 3))


def test_case_and_punctuation_do_not_count():
    assert cider(["A Dog, barks!", "Rain."], [["a dog barks"], ["rain"]]) == cider(
        ["a dog barks", "rain"], [["a dog barks"], ["rain"]]
    )


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        (["a"], [], "references of each of 1"),
        (["a"], [[]], "Item 0 has no reference"),
        ([], [], "no captions"),
    ],
)
def test_missing_references_are_named(captions, references, message):
    with pytest.raises(UserError, match=message):
        cider(captions, references)
