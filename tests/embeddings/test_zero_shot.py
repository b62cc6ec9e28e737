"""Zero-shot classification against transformers' pipelines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, pipeline

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.zero_shot import ZeroShotClassifier

LABELS = ["dog", "rain", "sea"]


@pytest.fixture(scope="module")
def clip(reading_clip_folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(reading_clip_folder)


def by_label(found: list[dict[str, Any]]) -> list[float]:
    return [{each["label"]: each["score"] for each in found}[label] for label in LABELS]


def test_images_get_the_probabilities_of_transformers_pipeline(reading_clip_folder, clip):
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(2)]
    # torchvision's resizing, which the pipeline takes by itself, differs in the last 8-bit step.
    reference: Any = pipeline(
        "zero-shot-image-classification",
        model=str(reading_clip_folder),
        image_processor=AutoImageProcessor.from_pretrained(reading_clip_folder, backend="pil"),
    )
    template = "photo of {}."
    expected = [
        by_label(found)
        for found in reference(images, candidate_labels=LABELS, hypothesis_template=template)
    ]
    classifier = ZeroShotClassifier(clip, LABELS, templates=template)
    found = classifier.probabilities(clip.encode_image(images))
    assert found.numpy() == pytest.approx(np.array(expected), abs=1e-6)


def test_audio_gets_the_probabilities_of_transformers_pipeline(musicldm_folder):
    from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

    waveform = np.random.default_rng(0).uniform(-1, 1, 16_000).astype(np.float32)
    model = ClapModel.from_pretrained(musicldm_folder / "text_encoder")
    with torch.no_grad():
        model.logit_scale_a.fill_(3.0)
    reference: Any = pipeline(
        "zero-shot-audio-classification",
        model=model,
        feature_extractor=AutoFeatureExtractor.from_pretrained(
            musicldm_folder / "feature_extractor"
        ),
        tokenizer=AutoTokenizer.from_pretrained(musicldm_folder / "tokenizer"),
    )
    template = "This is a sound of {}."
    expected = by_label(reference(waveform, candidate_labels=LABELS, hypothesis_template=template))
    clap = ClapEncoder.from_pretrained(musicldm_folder)
    classifier = ZeroShotClassifier(clap, LABELS, templates=template, temperature=np.exp(-3.0))
    found = classifier.probabilities(clap.encode_audio([(waveform, 16_000)]))
    assert found[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_models_own_temperature_is_the_default(clip, musicldm_folder):
    model: Any = clip.backend.model
    assert clip.logit_scale == pytest.approx(model.logit_scale.exp().item())
    clap = ClapEncoder.from_pretrained(musicldm_folder)
    model = clap.backend.model
    assert clap.logit_scale == pytest.approx(model.logit_scale_a.exp().item())
    embeds = clip.encode_text(["rain", "a dog"])
    own = ZeroShotClassifier(clip, LABELS, temperature=1 / clip.logit_scale)
    assert torch.allclose(
        ZeroShotClassifier(clip, LABELS).probabilities(embeds), own.probabilities(embeds)
    )


def test_templates_are_averaged_on_the_sphere(clip):
    templates = ["{}", "a photo of the {}"]
    both = ZeroShotClassifier(clip, LABELS, templates=templates).label_embeds
    parts = [ZeroShotClassifier(clip, LABELS, templates=each).label_embeds for each in templates]
    assert torch.allclose(
        both, torch.nn.functional.normalize(parts[0] + parts[1], dim=-1), atol=1e-6
    )


def test_synonyms_are_averaged_on_the_sphere(clip):
    found = ZeroShotClassifier(clip, {"dog": ["hound", "cur"], "sea": ["sea"]}).label_embeds
    parts = ZeroShotClassifier(clip, ["hound", "cur", "sea"]).label_embeds
    expected = torch.stack([parts[:2].mean(0), parts[2]])
    assert torch.allclose(found, torch.nn.functional.normalize(expected, dim=-1), atol=1e-6)


def test_the_nearest_labels_are_sorted_and_those_of_the_probabilities(clip):
    classifier = ZeroShotClassifier(clip, LABELS)
    embeds = clip.encode_text(["dog", "rain"])
    probabilities = classifier.probabilities(embeds)
    assert torch.allclose(probabilities.sum(1), torch.ones(2))
    for row, found in zip(probabilities, classifier.nearest(embeds, k=2), strict=True):
        assert [value for _, value in found] == sorted(row.tolist(), reverse=True)[:2]
        assert found[0][0] == LABELS[row.argmax()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "labels"),
        ({"labels": ["dog", " "]}, "not blank"),
        ({"labels": ["dog", "rain", "dog"]}, "'dog' twice"),
        ({"labels": "dog"}, "labels"),
        ({"labels": {"dog": []}}, "labels"),
        ({"templates": "a photo"}, "one {} for the label"),
        ({"templates": ["{}", "{} {}"]}, "one {} for the label"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_a_senseless_classifier_is_refused(clip, options, message):
    with pytest.raises(UserError, match=message):
        ZeroShotClassifier(clip, **{"labels": LABELS, **options})


def test_embeddings_of_another_size_are_refused(clip):
    with pytest.raises(UserError, match="embeds"):
        ZeroShotClassifier(clip, LABELS).probabilities(torch.zeros(1, 3))
