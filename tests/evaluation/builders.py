"""Files, tables, translators and classifiers of the evaluation tests."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.datasets import read_audio_dataset
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.evaluation.generation.images import evaluate_images
from clip2clap.evaluation.results import Results, embedding_results, join_results
from clip2clap.evaluation.rows import EvaluatedRows
from clip2clap.evaluation.translation import (
    evaluate,
)
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.media.writing import write_audio
from clip2clap.training.pairs import Pairs
from clip2clap.translator.base import Translator
from clip2clap.translator.linear import fit_ridge
from clip2clap.translator.mlp import MLPTranslator

Run = Callable[..., tuple[int, str, str]]
CONFIG = GenerationConfig(num_inference_steps=2, resamples=200)
LABELS = ("dog", "sea_wave")
COLORS = ((200, 30, 30), (30, 30, 200))
RATE = 16_000
CLIP = EmbeddingSpace("clip", "some/clip", "text", 16, True, "c11p")
CLAP = EmbeddingSpace("clap", "some/clap", "text", 12, True, "c1a9")
CLASSES = ("bird", "can", "dog", "sea")


def write_color(path: Path, color: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), tuple(color)).save(path)  # pyright: ignore[reportArgumentType]


def vectors(count: int, dim: int, *, seed: int = 0) -> Tensor:
    return unit_norm(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def value(figure: Any) -> float:
    assert figure is not None
    return figure.value


def write_media_table(
    folder: Path, pipeline: AudioToImagePipeline, rows: int, *, modality: str = "image"
) -> Path:
    """Rows of random vectors, of which the last two share their picture."""
    assert pipeline.clip is not None
    assert pipeline.clap is not None
    seen = pipeline.clip.space("image" if modality == "image" else "text")
    spaces = {f"clip_{modality}": seen, "clap_audio": pipeline.clap.space("audio")}
    pictures = vectors(rows, seen.dim)
    pictures[-1] = pictures[-2]
    with TableWriter(folder, spaces, dtype="float32") as writer:
        writer.append(
            [f"row{n}" for n in range(rows)],
            {"kind": [LABELS[n * 2 // rows] for n in range(rows)]},
            dict(zip(spaces, (pictures, vectors(rows, 16, seed=1)), strict=True)),
        )
    return folder


def back_translator(pipeline: AudioToImagePipeline, folder: Path, *, seed: int) -> Translator:
    made = MLPTranslator(16, 12, hidden_size=8)
    made.initialize(torch.Generator().manual_seed(seed))
    assert pipeline.translator is not None
    made.record(
        source_space=pipeline.translator.source_space,
        target_space=pipeline.translator.target_space,
    )
    made.save_pretrained(folder)
    return made


def write_classifier(folder: Path) -> Path:
    """Write a classifier that always says person, then wave, then dog."""
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            image_size=16,
            patch_size=8,
            id2label={0: "Dog", 1: "Sea_wave", 2: "person"},
        )
    )
    last: Any = model.classifier
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def write_tone(path: Path, hertz: float, seconds: float = 1.5) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * RATE)) / RATE
    write_audio(path, 0.5 * np.sin(2 * np.pi * hertz * times).astype(np.float32), RATE)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sides(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Both sides, which lie in memory in these tests."""
    assert isinstance(pairs.source, Tensor)
    assert isinstance(pairs.target, Tensor)
    return pairs.source, pairs.target


def pairs_of(n: int = 240, *, spread: float = 0.3, seed: int = 0) -> tuple[Pairs, list[str]]:
    """Pairs of four kinds with a linear way from one side to the other."""
    kinds = torch.arange(n) % len(CLASSES)
    causes = 2 * noise(len(CLASSES), 8, seed=9)[kinds] + noise(n, 8, seed=seed)
    source = unit_norm(causes @ noise(8, 16, seed=1) + spread * noise(n, 16, seed=seed + 2))
    target = unit_norm(causes @ noise(8, 12, seed=3) + spread * noise(n, 12, seed=seed + 4))
    pairs = Pairs(source, target, source_space=CLIP, target_space=CLAP)
    return pairs, [CLASSES[kind] for kind in kinds]


def fitted(pairs: Pairs) -> Translator:
    translator = fit_ridge(*sides(pairs), alpha=0.1)
    translator.record(source_space=CLIP, target_space=CLAP)
    return translator


def shuffled(pairs: Pairs) -> Pairs:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    return replace(pairs, target=pairs.target[order])


def write_table(folder: Path, pairs: Pairs, **sources: list[Any]) -> Path:
    with TableWriter(folder, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
        writer.append(
            [f"row{i}" for i in range(len(pairs))],
            sources,
            dict(zip(("clip_text", "clap_text"), sides(pairs), strict=True)),
        )
    return folder


def results_of(
    translators: dict[str, Translator], *, seed: int = 50, pairs: Pairs | None = None
) -> Results:
    pairs = pairs or pairs_of(seed=seed)[0]
    rows = EvaluatedRows(pairs, [f"row{i}" for i in range(len(pairs))], "all", None, [], None)
    found = evaluate(translators, pairs)
    named = {name: ("folder", translator) for name, translator in translators.items()}
    part = embedding_results(rows, found, named, table="table", labels=None)
    return join_results(seed=0, embeddings=part)


class ColorClassifier:
    """Knows a dog, which is red, from a wave, which is blue."""

    name = "color"

    def __call__(self, things: Sequence[Image.Image], embeds: Tensor) -> list[str]:
        means = [np.asarray(one).mean((0, 1)) for one in things]
        return ["dog" if red > blue else "sea wave" for red, _, blue in means]


def measure(pipeline: AudioToImagePipeline, folder: Path, **options: Any) -> GenerationEvaluation:
    assert pipeline.clip is not None
    assert pipeline.translator is not None
    changes = {name: options.pop(name) for name in ("seed", "batch_size") if name in options}
    return evaluate_images(
        pipeline,
        options.pop("translators", {"one": pipeline.translator}),
        options.pop("dataset", None) or read_audio_dataset(folder / "sounds", folder / "real"),
        folder / "made",
        config=replace(CONFIG, **changes),
        **{"clip": pipeline.clip, "classifier": ColorClassifier(), **options},
    )
