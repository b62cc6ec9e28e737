"""Classifiers restricted to the labels of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
)

from clip2clap.core.errors import UserError
from clip2clap.evaluation.classifiers import TransformersClassifier

from .builders import (
    RATE,
    write_classifier,
)


def test_an_audio_classifier_of_transformers_chooses_among_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ASTForAudioClassification(
        ASTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_length=16,
            num_mel_bins=16,
            patch_size=16,
            id2label={0: "Dog", 1: "Sea_wave", 2: "Speech"},
        )
    )
    # It always says speech, then wave, then dog: of the kinds, wave is the likeliest.
    last: Any = model.classifier.dense
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    model.save_pretrained(tmp_path)
    extractor = ASTFeatureExtractor(num_mel_bins=16, max_length=16, sampling_rate=8000)
    extractor.save_pretrained(tmp_path)
    classifier = TransformersClassifier(tmp_path, ["dog", "sea wave"])
    wave = np.sin(np.arange(RATE) / 5).astype(np.float32)
    assert classifier([(wave, RATE), (wave, 8000)], torch.zeros(2, 1)) == ["sea wave"] * 2
    with pytest.raises(UserError, match="has no label frog"):
        TransformersClassifier(tmp_path, ["dog", "frog"])
    with pytest.raises(UserError, match="can't be loaded"):
        TransformersClassifier(tmp_path / "none", ["dog"])


def test_an_image_classifier_of_transformers_chooses_among_the_labels(tmp_path: Path) -> None:
    write_classifier(tmp_path)
    # Of the kinds, wave is the likeliest.
    classifier = TransformersClassifier(tmp_path, ["dog", "sea wave"], task="image-classification")
    shown = [Image.new("RGB", (20, 30)), Image.new("L", (9, 9))]
    assert classifier(shown, torch.zeros(2, 1)) == ["sea wave"] * 2
    with pytest.raises(UserError, match="as an image classifier"):
        TransformersClassifier(tmp_path / "none", ["dog"], task="image-classification")
