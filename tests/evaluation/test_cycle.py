"""Round trips of known worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clip2clap.core.math import unit_norm
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.cycle import measure_round_trip
from clip2clap.evaluation.datasets import (
    read_image_dataset,
)
from clip2clap.evaluation.generation.audio import evaluate_audio
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.metrics.bootstrap import Resamples

from .builders import (
    measure,
    value,
    vectors,
)


def test_ends_that_came_back_are_distinguished_from_those_that_did_not() -> None:
    middles = vectors(4, 32)
    labels = [str(row % 4) for row in range(40)]
    starts = unit_norm(middles.repeat(10, 1) + 0.3 * vectors(40, 32, seed=1))
    others = [(row + 1) % 40 for row in range(40)]
    draws = Resamples(range(40), resamples=200)
    options: dict[str, Any] = {"labels": labels, "others": others, "draws": draws}
    perfect, rows = measure_round_trip(starts, starts, **options)
    assert perfect.scores.similarity.value == pytest.approx(1, abs=1e-6)
    assert value(perfect.scores.nearest_label) == 1
    assert perfect.wrong_source.similarity.high < perfect.scores.similarity.low
    assert value(perfect.wrong_source.nearest_label) == 0
    assert rows["round_trip"] == pytest.approx(np.ones(40), abs=1e-6)
    lost, _ = measure_round_trip(starts, vectors(40, 32, seed=2), **options)
    assert lost.scores.similarity.low < lost.wrong_source.similarity.high
    assert value(lost.scores.nearest_label) < 0.5
    # What two real ones of a kind have in common, by loops.
    assert perfect.real is not None
    alike = [
        float(starts[a] @ starts[b])
        for a in range(40)
        for b in range(40)
        if a != b and labels[a] == labels[b]
    ]
    assert perfect.real.similarity.value == pytest.approx(np.mean(alike), abs=1e-6)
    assert value(perfect.real.nearest_label) == 1
    unknown, rows = measure_round_trip(starts, starts, labels=None, others=others, draws=draws)
    assert (unknown.real, unknown.scores.nearest_label, set(rows)) == (None, None, {"round_trip"})


def test_audio_goes_there_and_back(
    pipeline: AudioToImagePipeline, generator: ImageToAudioPipeline, folder: Path
) -> None:
    found = measure(pipeline, folder, round_trip=generator)
    (one,) = found.translators
    assert one.round_trip is not None
    clap, clip, there = pipeline.clap, generator.clip, generator.translator
    assert clap is not None
    assert clip is not None
    assert there is not None
    files = sorted((folder / "sounds").rglob("*.wav"))
    back = sorted((folder / "made" / "one" / "back").glob("*.wav"))
    starts = clap.encode_audio([load_audio(file) for file in files])
    ends = clap.encode_audio([load_audio(file) for file in back])
    assert one.round_trip.scores.similarity.value == pytest.approx(
        (starts * ends).sum(1).mean().item(), abs=1e-6
    )
    # The sound is that of the picture, with the noise of its place.
    made = generator(
        prompt_embeds=there(clip.encode_image([Image.open(one.files[2])])).detach(),
        generator=[torch.Generator().manual_seed(2)],
    )
    assert np.asarray(made.audios)[0] == pytest.approx(load_audio(back[2])[0], abs=1e-3)


def test_images_go_there_and_back(
    pipeline: AudioToImagePipeline, generator: ImageToAudioPipeline, folder: Path
) -> None:
    assert generator.translator is not None
    assert generator.clip is not None
    assert pipeline.clap is not None
    found = evaluate_audio(
        generator,
        {"there": generator.translator},
        read_image_dataset(folder / "real"),
        folder / "heard",
        clap=pipeline.clap,
        round_trip=pipeline,
        config=GenerationConfig(num_inference_steps=1, audio_length_in_s=0.1, resamples=100),
    )
    (one,) = found.translators
    assert one.round_trip is not None
    back = sorted((folder / "heard" / "there" / "back").glob("*.png"))
    photographs = sorted((folder / "real").rglob("*.png"))
    starts, ends = (
        generator.clip.encode_image([Image.open(file) for file in files])
        for files in (photographs, back)
    )
    assert one.round_trip.scores.similarity.value == pytest.approx(
        (starts * ends).sum(1).mean().item(), abs=1e-6
    )
    assert one.round_trip.real is not None
    assert value(one.round_trip.real.nearest_label) == 1
