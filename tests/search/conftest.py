"""Fixtures of the index: tiny encoders, and folders of images and audio."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from clip2clap.embeddings.encoders.base import read_space
from clip2clap.search import update_index
from clip2clap.translator.linear import LinearTranslator
from clip2clap.translator.saving import Provenance

from .builders import write_audio, write_image


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Six images and six audio files in subfolders."""
    for n in range(6):
        write_image(tmp_path / "media" / "photos" / f"{n}.png", n)
        write_audio(tmp_path / "media" / "sounds" / f"{n}.wav", n)
    return tmp_path / "media"


@pytest.fixture(scope="session")
def models(reading_clip_folder: Path, musicldm_folder: Path) -> dict[str, Any]:
    """Names of a tiny CLIP and a tiny CLAP with an audio encoder."""
    return {"clip": str(reading_clip_folder), "clap": str(musicldm_folder)}


@pytest.fixture
def update(models: dict[str, Any]) -> Any:
    """`update_index` with the tiny encoders."""
    return partial(update_index, **models)


@pytest.fixture
def library(media: Path, tmp_path: Path, update: Any) -> Path:
    """Index of the images and audio."""
    update([media], tmp_path / "library")
    return tmp_path / "library"


@pytest.fixture(scope="session")
def translators(models: dict[str, Any]) -> list[LinearTranslator]:
    """Random translators in both directions."""
    clip = read_space(models["clip"], family="clip", modality="image")
    clap = read_space(models["clap"], family="clap", modality="audio")
    made = []
    for seed, (source, target) in enumerate(((clip, clap), (clap, clip))):
        each = LinearTranslator(source.dim, target.dim, provenance=Provenance(source, target))
        each.initialize(torch.Generator().manual_seed(seed))
        made.append(each.eval())
    return made
