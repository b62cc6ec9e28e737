"""Fixtures of image-to-audio pipelines."""

import shutil
from typing import Any

import pytest
from diffusers import (
    AutoencoderKL,
    UNet2DConditionModel,
)
from transformers import SpeechT5HifiGan

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.translator.mlp import MLPTranslator

from .builders import joined, load


@pytest.fixture(scope="session")
def loaded(audioldm_folder, clip_folder):
    return load(audioldm_folder, clip_folder)


@pytest.fixture(scope="session")
def loaded_with_audio_encoder(musicldm_folder, clip_folder):
    return load(musicldm_folder, clip_folder)


@pytest.fixture(scope="session")
def saved_once(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(loaded):
    return joined(loaded)


@pytest.fixture
def pipe_with_audio_encoder(loaded_with_audio_encoder):
    """Return a pipeline whose generator's own CLAP has an audio encoder, as MusicLDM's does."""
    return joined(loaded_with_audio_encoder)


@pytest.fixture
def saved(saved_once, tmp_path):
    """Return a copy of a saved pipeline's folder, which a test may change."""
    return shutil.copytree(saved_once, tmp_path / "saved")


@pytest.fixture
def no_loading_later(monkeypatch):
    """Return a function after whose call any loading of weights fails the test."""

    def refuse(*args, **kwargs):
        pytest.fail("a model was loaded")

    def forbid():
        for model_class in (
            UNet2DConditionModel,
            AutoencoderKL,
            SpeechT5HifiGan,
            ClipEncoder,
            ClapEncoder,
            MLPTranslator,
        ):
            monkeypatch.setattr(model_class, "from_pretrained", refuse)

    return forbid


@pytest.fixture(scope="session")
def loaded_decoder(painter_folder):
    return AudioToImagePipeline.from_pretrained(painter_folder, torch_dtype=None)


@pytest.fixture
def decoder(loaded_decoder):
    """Return an audio-to-image pipeline, whose scheduler a test may replace."""
    pipeline: Any = AudioToImagePipeline.from_pipe(loaded_decoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
