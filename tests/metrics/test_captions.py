"""Metrics of captions: known values and bounds."""

import math
import shutil
import sys
from types import ModuleType

import pytest

from clip2clap.core.errors import MissingExtraError, ModelNotFoundError, UserError
from clip2clap.metrics import captions as metrics
from clip2clap.metrics.captions import (
    bleu,
    cider,
    fense,
    measure_captions,
    meteor,
    rouge_l,
    spice,
    spider,
)

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


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a Java program")
def test_meteor_knows_stems_and_synonyms(monkeypatch):
    from pycocoevalcap.meteor.meteor import Meteor

    # The program takes seconds to start: one run measures all captions.
    compute, scores = Meteor.compute_score, []

    def compute_score(self, truths, texts):
        total, each = compute(self, truths, texts)
        scores.extend(each)
        return total, each

    monkeypatch.setattr(Meteor, "compute_score", compute_score)
    same = [own[0] for own in TRUTHS]
    far = ["a cat meows", "wind blows"]
    total = meteor([*same, "a dog barked loudly", *far], [*TRUTHS, TRUTHS[0], *TRUTHS])
    assert scores[:2] == pytest.approx([1, 1], abs=0.01)
    assert 1 > scores[2] > max(scores[3:]) + 0.3
    assert min(scores) < total < max(scores)


def test_without_java_or_its_models_a_metric_says_what_is_missing(monkeypatch, tmp_path):
    same = [own[0] for own in TRUTHS]
    spec = ModuleType("spec")
    spec.origin = str(tmp_path / "__init__.py")  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(metrics, "find_spec", lambda name: spec)
    monkeypatch.setattr(metrics.shutil, "which", lambda name: "/bin/java")
    with pytest.raises(ModelNotFoundError, match="Stanford CoreNLP"):
        spice(same, TRUTHS)
    monkeypatch.setattr(metrics.shutil, "which", lambda name: None)
    for metric in (meteor, spice, spider):
        with pytest.raises(MissingExtraError, match="Java program"):
            metric(same, TRUTHS)
    monkeypatch.setitem(sys.modules, "aac_metrics.functional", None)
    found, missing = measure_captions(same, TRUTHS)
    assert missing.keys() == {"meteor", "spice", "spider", "fense"}
    assert found["rouge_l"] == rouge_l(same, TRUTHS)
    assert found["bleu_4"] == pytest.approx(1)


def test_spider_is_the_mean_of_cider_and_spice(monkeypatch):
    monkeypatch.setattr(metrics, "spice", lambda captions, references: 0.5)
    same = [own[0] for own in TRUTHS]
    assert spider(same, TRUTHS) == pytest.approx((cider(same, TRUTHS) + 0.5) / 2)


def test_fense_is_that_of_aac_metrics(monkeypatch):
    package, functional = ModuleType("aac_metrics"), ModuleType("aac_metrics.functional")
    asked = []

    def compute(candidates, references):
        asked.append((candidates, references))
        if len(asked) > 1:
            raise OSError("no network")
        return {"fense": 0.25}, {}

    functional.fense = compute  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "aac_metrics", package)
    monkeypatch.setitem(sys.modules, "aac_metrics.functional", functional)
    assert fense(["a dog"], [("a dog barks",)]) == 0.25
    assert asked == [(["a dog"], [["a dog barks"]])]
    with pytest.raises(ModelNotFoundError, match="aac-metrics-download"):
        fense(["a dog"], [["a dog barks"]])


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
