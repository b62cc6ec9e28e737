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


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory, text_to_image_folder: Path) -> Path:
    """Create the files that the documentation speaks of."""
    folder = tmp_path_factory.mktemp("documented")
    images = {"dog": data.chelsea(), "sea": data.coffee(), "train": data.astronaut()}
    rate = 16_000
    time = np.arange(2 * rate) / rate
    for place, (name, pixels) in enumerate(images.items()):
        small = Image.fromarray(pixels).resize((96, 96))
        waveform = 0.3 * np.sin(2 * np.pi * (220 + 180 * place) * time) * np.exp(-time)
        for inside in ("photos", "recordings", "pets"):
            (folder / inside).mkdir(exist_ok=True)
        small.save(folder / f"{name}.jpg")
        small.save(folder / "photos" / f"{name}.jpg")
        soundfile.write(folder / f"{name}.wav", waveform, rate)
        soundfile.write(folder / "recordings" / f"{name}.wav", waveform, rate)
        for number in range(5):
            turned = small.rotate(9 * number)
            turned.save(folder / "pets" / f"{name}-{number}.jpg")
            noise = np.random.default_rng(number).normal(0, 0.02, len(waveform))
            soundfile.write(folder / "pets" / f"{name}-{number}.wav", waveform + noise, rate)
        for kind, suffix in (("classes", "jpg"), ("classes-audio", "wav")):
            (folder / kind / name).mkdir(parents=True)
            for number in range(2):
                file = folder / "pets" / f"{name}-{number}.{suffix}"
                shutil.copy(file, folder / kind / name / file.name)
    shutil.copy(folder / "dog.wav", folder / "bark.wav")
    shutil.copy(folder / "sea.wav", folder / "say.wav")
    (folder / "names").mkdir()
    for name in images:
        shutil.copy(folder / f"{name}.wav", folder / "names" / f"{name}_1.wav")
    spoken = [f"{name}.wav,a {name},{name}.jpg,{n}" for n in range(4) for name in images]
    (folder / "spoken.csv").write_text("\n".join(["audio,caption,image,item", *spoken]) + "\n")
    (folder / "labels.txt").write_text("dog\nsea\ntrain\n")
    captions = [f"{what} number {place}" for place in range(20) for what in ("a dog", "the sea")]
    (folder / "captions.csv").write_text("\n".join(["caption", *captions]) + "\n")
    shutil.copytree(text_to_image_folder, folder / "tiny-text-to-image")
    return folder


@pytest.fixture
def folder(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the files that the documentation speaks of into the current folder."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
