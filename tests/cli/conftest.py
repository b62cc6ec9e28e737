"""Fixtures of the verbs: a tiny pipeline on disk, photographs, a table of pairs."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import save_file

from clip2clap.core.presets import PRESETS
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.inference.image_to_audio import ImageToAudioPipeline

from .builders import write_translator


@pytest.fixture(scope="session")
def model(
    audioldm_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A pipeline's folder with every part a photograph needs, tiny and with random weights."""
    folder = tmp_path_factory.mktemp("model")
    translator = write_translator(folder / "translator", clip_folder, audioldm_folder)
    pipeline = ImageToAudioPipeline.from_audioldm(
        audioldm_folder, clip=clip_folder, translator=translator
    )
    pipeline.register_to_config(default_num_inference_steps=2)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def samples(model: Path) -> int:
    """Length of the tiny model's sound."""
    pipeline = ImageToAudioPipeline.from_pretrained(model)
    return round(pipeline.default_audio_length_in_s * pipeline.sampling_rate)


@pytest.fixture(scope="session")
def ranking_model(
    musicldm_folder: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tiny pipeline whose generator has a CLAP that ranks."""
    folder = tmp_path_factory.mktemp("ranking_model")
    pipeline = ImageToAudioPipeline.from_audioldm(
        musicldm_folder,
        clip=clip_folder,
        translator=write_translator(folder / "translator", clip_folder, musicldm_folder),
    )
    pipeline.register_to_config(default_num_inference_steps=2)
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def demo_models(
    ranking_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> torch.Tensor:
    """Put the tiny model in the demo models' place; gives the three kinds' prompt vectors."""
    folder = tmp_path / "demo_models"
    folder.mkdir()
    prompts = torch.nn.functional.normalize(
        torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    )
    (folder / "kinds.json").write_text(json.dumps({"audio_kinds": ["cat", "dog", "sea"]}))
    clap = ImageToAudioPipeline.from_pretrained(ranking_model).generator_clap.load_audio_encoder()
    kinds = {"clap_text": prompts, "logit_scale": torch.tensor(clap.logit_scale)}
    save_file(kinds, folder / "kinds.safetensors")
    monkeypatch.setattr("clip2clap.cli.demo.DEMO_FOLDER", folder)
    monkeypatch.setattr("clip2clap.search.labels.DEMO_FOLDER", folder)
    monkeypatch.setitem(PRESETS["generator"], "demo", str(ranking_model))
    return prompts


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three photographs, two of which bear one name."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name in ("cat.png", "dog.jpg", "dog.png"):
        Image.fromarray(noise.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of pairs that a rotation joins, so that a translator can be fitted to them."""
    draw = torch.Generator().manual_seed(0)
    spaces = {
        "clip_text": EmbeddingSpace("clip", "a/clip", "text", 8, True, "c1"),
        "clap_text": EmbeddingSpace("clap", "cvssp/audioldm-s-full-v2", "text", 8, True, "d1"),
    }
    texts = torch.nn.functional.normalize(torch.randn(200, 8, generator=draw))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    with TableWriter(tmp_path / "table", spaces, dtype="float32") as writer:
        ids = [str(row) for row in range(len(texts))]
        captions = {"caption": [f"caption {row}" for row in ids]}
        writer.append(ids, captions, {"clip_text": texts, "clap_text": texts @ rotation})
    return tmp_path / "table"


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """Write half a second of noise."""
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(tmp_path / "noise.wav", waveform, 16_000)
    return tmp_path / "noise.wav"
