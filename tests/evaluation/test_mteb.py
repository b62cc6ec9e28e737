"""Encoders and translators as models of mteb, on small local tasks."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

mteb = pytest.importorskip("mteb")

from datasets import Dataset, DatasetDict  # noqa: E402
from mteb.abstasks import AbsTaskZeroShotClassification  # noqa: E402
from mteb.abstasks.task_metadata import TaskMetadata  # noqa: E402

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder  # noqa: E402
from clip2clap.core.errors import MissingExtraError, UserError  # noqa: E402
from clip2clap.embeddings.space import SpaceMismatchError  # noqa: E402
from clip2clap.embeddings.zero_shot import ZeroShotClassifier  # noqa: E402
from clip2clap.evaluation.mteb import MtebModel  # noqa: E402
from clip2clap.translator.mlp import MLPTranslator  # noqa: E402
from clip2clap.translator.saving import Provenance  # noqa: E402

RATE, LABELS = 16_000, ["rain", "dog", "siren"]
SOUNDS = Path(__file__).parents[2] / "docs/sounds"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {
        "clip": ClipEncoder.from_pretrained("demo"),
        "clap": ClapEncoder.from_pretrained("demo"),
    }


def task(modality: str, rows: dict[str, list]) -> Any:
    """Create a zero-shot task on rows of one modality, named by the sounds of the labels."""
    kinds: dict[str, Any] = {
        "audio": {"type": "AudioZeroshotClassification", "category": "a2t"},
        "image": {"type": "ZeroShotClassification", "category": "i2t"},
    }

    class LocalTask(AbsTaskZeroShotClassification):
        metadata = TaskMetadata(
            name=f"Local{modality.title()}",
            description="A few files of this test.",
            dataset={"path": "local/none", "revision": "1"},
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="accuracy",
            modalities=[modality, "text"],  # pyright: ignore[reportArgumentType]
            **kinds[modality],
        )
        input_column_name = modality
        label_column_name = "label"

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset: Any = DatasetDict({"test": Dataset.from_dict(rows)})
            self.data_loaded = True

        def get_candidate_labels(self) -> list[str]:
            return [f"the sound of a {label}" for label in LABELS]

    return LocalTask()


def accuracy(model: Any, local: Any) -> float:
    found = mteb.evaluate(model, local, cache=None, show_progress_bar=False)
    return found.task_results[0].scores["test"][0]["main_score"]


def test_a_clap_scores_in_mteb_what_our_own_classifier_scores(models):
    sounds = [soundfile.read(SOUNDS / f"{name}.opus") for name in ("rain", "dog", "cat")]
    rng = np.random.default_rng(0)
    sounds += [(rng.normal(0, 0.1, RATE), RATE) for _ in range(2)]
    labels = [0, 1, 2, 2, 0]
    audio = [{"array": array.tolist(), "sampling_rate": rate} for array, rate in sounds]
    score = accuracy(
        MtebModel(clap=models["clap"]), task("audio", {"audio": audio, "label": labels})
    )
    classifier = ZeroShotClassifier(models["clap"], LABELS)
    embeds = models["clap"].encode_audio([(a.astype(np.float32), r) for a, r in sounds])
    named = [LABELS.index(name) for name in classifier(sounds, embeds)]
    assert score == pytest.approx(np.mean(np.array(named) == labels))
    assert 0 < score < 1


def test_a_translator_puts_images_audio_and_texts_into_one_space(models):
    translator = AutoTranslator.from_pretrained("demo")
    model = MtebModel(**models, translator=translator)
    assert model.mteb_model_meta is not None
    assert set(model.mteb_model_meta.modalities) == {"audio", "text", "image"}
    colors = [(200, 60, 40), (30, 90, 200), (240, 240, 240)]
    images = [Image.new("RGB", (48, 48), color) for color in colors]
    classifier = ZeroShotClassifier(models["clap"], LABELS)
    embeds = translator(models["clip"].encode_image(images)).detach()
    labels = [LABELS.index(name) for name in classifier(images, embeds)]
    assert accuracy(model, task("image", {"image": images, "label": labels})) == 1
    wrong = [(label + 1) % 3 for label in labels]
    assert accuracy(model, task("image", {"image": images, "label": wrong})) == 0


def test_encoders_without_a_fitting_translator_are_refused(models):
    with pytest.raises(UserError, match="2 encoders without a translator"):
        MtebModel(**models)
    with pytest.raises(UserError, match="0 encoders"):
        MtebModel()
    back = AutoTranslator.from_pretrained("demo-back")
    meta = MtebModel(**models, translator=back).mteb_model_meta
    assert meta is not None
    assert meta.embed_dim == 512
    other = replace(models["clip"].space("image"), fingerprint="0" * 16)
    foreign = MLPTranslator(provenance=Provenance(other, models["clap"].space("audio")))
    with pytest.raises(SpaceMismatchError):
        MtebModel(**models, translator=foreign)


def test_without_mteb_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mteb.models.abs_encoder", None)
    monkeypatch.delitem(sys.modules, "clip2clap.evaluation.mteb")
    with pytest.raises(MissingExtraError, match=r"clip2clap\[mteb\]"):
        import clip2clap.evaluation.mteb  # noqa: F401
