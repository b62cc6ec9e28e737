"""Pipelines and folders that the evaluation tests share."""

from pathlib import Path

import pytest
import torch

from clip2clap import ClapEncoder, ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.translator.mlp import MLPTranslator

from .builders import (
    COLORS,
    LABELS,
    write_color,
    write_tone,
)


@pytest.fixture(scope="module")
def pipeline(painter_folder: Path) -> AudioToImagePipeline:
    made = AudioToImagePipeline.from_pretrained(painter_folder, torch_dtype=None)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def generator(musicldm_folder: Path, reading_clip_folder: Path) -> ImageToAudioPipeline:
    """The way back, from a photograph to a sound."""
    clip = ClipEncoder.from_pretrained(reading_clip_folder)
    clap = ClapEncoder.from_pretrained(musicldm_folder)
    there = MLPTranslator(12, 16, hidden_size=8)
    there.initialize(torch.Generator().manual_seed(3))
    there.record(source_space=clip.space("image"), target_space=clap.space("text"))
    made = ImageToAudioPipeline.from_pretrained(
        musicldm_folder, clip=clip, translator=there.eval(), torch_dtype=None
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings and four photographs of each kind; dogs sound high, waves low."""
    for at, kind in enumerate(LABELS):
        for number in range(3):
            write_tone(tmp_path / "sounds" / kind / f"{number}.wav", (900, 200)[at] + 30 * number)
        for number in range(4):
            color = [value + 9 * number for value in COLORS[at]]
            write_color(tmp_path / "real" / kind / f"own {number}.png", color)
    return tmp_path
