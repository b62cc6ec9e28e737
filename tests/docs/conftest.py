"""Files that the documentation speaks of."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from skimage import data

from clip2clap.inference.base import TranslatorPipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.inference.painting.paint import PaintingOptions
from clip2clap.inference.similarity_guidance import GuidanceOptions
from clip2clap.metrics import captions


@pytest.fixture(autouse=True)
def quick_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pipelines generate a second of audio and one candidate, in few steps with few cutouts."""
    load = TranslatorPipeline.from_pretrained.__func__  # pyright: ignore[reportFunctionMemberAccess]

    def from_pretrained(cls: Any, *arguments: Any, **options: Any) -> Any:
        pipeline = load(cls, *arguments, **options)
        few = {"default_num_inference_steps": 2, "default_num_candidates": 1}
        pipeline.register_to_config(**{key: few[key] for key in few if key in pipeline.config})
        return pipeline

    monkeypatch.setattr(TranslatorPipeline, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.setattr(ImageToAudioPipeline, "default_audio_length_in_s", 1.0)
    for options in (GuidanceOptions, PaintingOptions):
        take_few_cutouts(options, monkeypatch)
    # Its program takes seconds to start, and tests/metrics runs it.
    monkeypatch.delitem(captions.METRICS, "meteor")


def take_few_cutouts(options: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let guidance or painting encode two cutouts, and guide by one gradient a step."""
    check = options.__post_init__

    def reduce(self: Any) -> None:
        check(self)
        object.__setattr__(self, "cutouts", 2)
        if options is GuidanceOptions:
            object.__setattr__(self, "iterations", 1)

    monkeypatch.setattr(options, "__post_init__", reduce)


@pytest.fixture
def folder(tmp_path: Path, text_to_image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the files that the documentation speaks of, in the current folder."""
    images = {"dog": data.chelsea(), "sea": data.coffee(), "train": data.astronaut()}
    rate = 16_000
    time = np.arange(2 * rate) / rate
    for place, (name, pixels) in enumerate(images.items()):
        small = Image.fromarray(pixels).resize((96, 96))
        waveform = 0.3 * np.sin(2 * np.pi * (220 + 180 * place) * time) * np.exp(-time)
        for inside in ("photos", "recordings", "pets"):
            (tmp_path / inside).mkdir(exist_ok=True)
        small.save(tmp_path / f"{name}.jpg")
        small.save(tmp_path / "photos" / f"{name}.jpg")
        soundfile.write(tmp_path / f"{name}.wav", waveform, rate)
        soundfile.write(tmp_path / "recordings" / f"{name}.wav", waveform, rate)
        for number in range(5):
            turned = small.rotate(9 * number)
            turned.save(tmp_path / "pets" / f"{name}-{number}.jpg")
            noise = np.random.default_rng(number).normal(0, 0.02, len(waveform))
            soundfile.write(tmp_path / "pets" / f"{name}-{number}.wav", waveform + noise, rate)
        for kind, suffix in (("classes", "jpg"), ("classes-audio", "wav")):
            (tmp_path / kind / name).mkdir(parents=True)
            for number in range(2):
                file = tmp_path / "pets" / f"{name}-{number}.{suffix}"
                shutil.copy(file, tmp_path / kind / name / file.name)
    shutil.copy(tmp_path / "dog.wav", tmp_path / "bark.wav")
    shutil.copy(tmp_path / "sea.wav", tmp_path / "say.wav")
    (tmp_path / "names").mkdir()
    for name in images:
        shutil.copy(tmp_path / f"{name}.wav", tmp_path / "names" / f"{name}_1.wav")
    spoken = [f"{name}.wav,a {name},{name}.jpg,{n}" for n in range(4) for name in images]
    (tmp_path / "spoken.csv").write_text("\n".join(["audio,caption,image,item", *spoken]) + "\n")
    (tmp_path / "labels.txt").write_text("dog\nsea\ntrain\n")
    captions = [f"{what} number {place}" for place in range(20) for what in ("a dog", "the sea")]
    (tmp_path / "captions.csv").write_text("\n".join(["caption", *captions]) + "\n")
    shutil.copytree(text_to_image_folder, tmp_path / "tiny-text-to-image")
    monkeypatch.chdir(tmp_path)
    return tmp_path
