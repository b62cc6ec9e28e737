"""Evaluation of generated audio by pipelines of known worth, and its command."""

import base64
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.datasets import read_image_dataset
from clip2clap.evaluation.generation.audio import evaluate_audio
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.evaluation.report.examples import example_sections
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.translator.base import Translator
from clip2clap.translator.mlp import MLPTranslator

from .builders import (
    LABELS,
    Run,
    write_color,
    write_tone,
)

CONFIG = GenerationConfig(num_inference_steps=2, audio_length_in_s=0.1, resamples=200)


class PitchClassifier:
    """Knows a dog from a wave by how fast the waveform crosses zero."""

    name = "pitch"

    def __call__(self, sounds: Sequence[tuple[np.ndarray, int]], embeds: Tensor) -> list[str]:
        crossings = [np.mean(np.diff(np.signbit(wave)) != 0) * rate / 2 for wave, rate in sounds]
        return ["dog" if hertz > 600 else "sea wave" for hertz in crossings]


@pytest.fixture(scope="module")
def pipeline(musicldm_folder: Path, clip_folder: Path) -> ImageToAudioPipeline:
    made = ImageToAudioPipeline.from_pretrained(musicldm_folder, clip=clip_folder, torch_dtype=None)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def clap(musicldm_folder: Path) -> ClapEncoder:
    return ClapEncoder.from_pretrained(musicldm_folder)


@pytest.fixture(scope="module")
def translator(clip_folder: Path, clap: ClapEncoder) -> Translator:
    made = MLPTranslator(12, 16, hidden_size=8)
    made.initialize(torch.Generator().manual_seed(0))
    clip = ClipEncoder.from_pretrained(clip_folder)
    made.record(source_space=clip.space("image"), target_space=clap.space("text"))
    return made.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photographs and recordings of each kind; dogs sound high, waves low."""
    for at, kind in enumerate(LABELS):
        for number in range(3):
            write_color(tmp_path / "images" / kind / f"{number}.png", (200 * at, 80 * number, 50))
            write_tone(tmp_path / "real" / kind / f"own {number}.wav", (900, 200)[at] + 20 * number)
    return tmp_path


def measure(
    pipeline: ImageToAudioPipeline,
    translator: Translator,
    clap: ClapEncoder,
    folder: Path,
    **options: Any,
) -> GenerationEvaluation:
    changes = {name: options.pop(name) for name in ("seed", "batch_size") if name in options}
    return evaluate_audio(
        pipeline,
        {"one": translator},
        read_image_dataset(folder / "images", folder / "real"),
        folder / "sounds",
        clap=clap,
        config=replace(CONFIG, **changes),
        **{"classifier": PitchClassifier(), **options},
    )


def test_metrics_are_those_of_the_cached_audio(
    pipeline: ImageToAudioPipeline, translator: Translator, clap: ClapEncoder, folder: Path
) -> None:
    found = measure(pipeline, translator, clap, folder)
    (one,) = found.translators
    sounds = [load_audio(file) for file in one.files]
    assert [len(wave) for wave, _ in sounds] == [1600] * 6
    heard = clap.encode_audio(sounds)
    words = ["the sound of a dog"] * 3 + ["the sound of a sea wave"] * 3
    assert one.scores.metrics["clap_score"].value == pytest.approx(
        (heard * clap.encode_text(words)).sum(1).mean().item(), abs=1e-6
    )
    real = [load_audio(file) for file in sorted((folder / "real").rglob("*.wav"))]
    reference = clap.encode_audio(real)
    assert one.scores.distances["fd"] == pytest.approx(
        frechet_distance(heard.numpy(), reference.numpy())
    )
    assert one.scores.distances["kd"] == pytest.approx(
        kernel_distance(heard.numpy(), reference.numpy())
    )
    # The generator's own CLAP measures, so the translated vector can be compared.
    assert pipeline.clip is not None
    images = sorted((folder / "images").rglob("*.png"))
    told = translator(pipeline.clip.encode_image(images))
    assert one.scores.metrics["translated_similarity"].value == pytest.approx(
        (heard * told).sum(1).mean().item(), abs=1e-6
    )
    assert one.scores.seconds is not None
    assert one.scores.seconds > 0
    assert any("flatters" in note for note in found.notes)
    # The same sound that image-to-audio makes of the photograph alone.
    again = pipeline(
        prompt_embeds=told[4:5].detach(),
        generator=[torch.Generator().manual_seed(4)],
        num_inference_steps=2,
        audio_length_in_s=0.1,
    )
    assert np.asarray(again.audios)[0] == pytest.approx(sounds[4][0], abs=1e-3)


def test_real_audio_is_classified_right_and_the_wrong_source_is_of_the_other_class(
    pipeline: ImageToAudioPipeline, translator: Translator, clap: ClapEncoder, folder: Path
) -> None:
    found = measure(pipeline, translator, clap, folder)
    assert found.real is not None
    assert found.real.metrics["classifier"].value == 1
    assert found.real.files == 6
    (one,) = found.translators
    # Of two kinds, what is right for one is wrong for the other.
    assert one.scores.metrics["classifier"].value + one.wrong_source.metrics[
        "classifier"
    ].value == pytest.approx(1)
    assert one.wrong_source.distances["fd"] == one.scores.distances["fd"]
    assert one.confusion is not None
    assert np.trace(one.confusion) == round(6 * one.scores.metrics["classifier"].value)
    assert np.sum(one.confusion, axis=1).tolist() == [3, 3]
    heard = found.per_row
    assert not np.array_equal(heard["one/clap_score"], heard["one/wrong source/clap_score"])


def test_a_run_that_was_stopped_makes_only_what_is_missing(
    pipeline: ImageToAudioPipeline,
    translator: Translator,
    clap: ClapEncoder,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = measure(pipeline, translator, clap, folder, batch_size=2)
    before = [file.read_bytes() for file in first.translators[0].files]
    first.translators[0].files[3].unlink()
    asked: list[int] = []
    make = ImageToAudioPipeline.__call__

    def count(self: ImageToAudioPipeline, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(kwargs["prompt_embeds"]))
        return make(self, *args, **kwargs)

    monkeypatch.setattr(ImageToAudioPipeline, "__call__", count)
    second = measure(pipeline, translator, clap, folder, batch_size=2)
    assert asked == [1]
    after = [file.read_bytes() for file in second.translators[0].files]
    assert before[:3] + before[4:] == after[:3] + after[4:]
    assert second.translators[0].scores.metrics.get("clap_score") is not None
    # Another seed is another run.
    measure(pipeline, translator, clap, folder, batch_size=4, seed=9)
    assert asked == [1, 4, 2]


def test_a_way_back_gives_the_clip_score(
    pipeline: ImageToAudioPipeline, translator: Translator, clap: ClapEncoder, folder: Path
) -> None:
    assert pipeline.clip is not None
    back = MLPTranslator(16, 12, hidden_size=8)
    back.initialize(torch.Generator().manual_seed(1))
    back.record(source_space=clap.space("audio"), target_space=pipeline.clip.space("image"))
    found = measure(pipeline, translator, clap, folder, back=back).translators[0]
    heard = clap.encode_audio([load_audio(file) for file in found.files])
    seen = pipeline.clip.encode_image(sorted((folder / "images").rglob("*.png")))
    assert found.scores.metrics["clip_score"].value == pytest.approx(
        100 * (back(heard) * seen).sum(1).mean().item(), abs=1e-4
    )
    with pytest.raises(SpaceMismatchError):
        measure(pipeline, translator, clap, folder, back=translator)


def test_one_waveform_is_generated_per_embedding_whatever_the_pipelines_own_number(
    pipeline: ImageToAudioPipeline, translator: Translator, clap: ClapEncoder, folder: Path
) -> None:
    (plain,) = measure(pipeline, translator, clap, folder).translators
    kept = [load_audio(file)[0] for file in plain.files]
    shutil.rmtree(folder / "sounds")
    pipeline.register_to_config(default_num_candidates=3)
    try:
        (one,) = measure(pipeline, translator, clap, folder).translators
    finally:
        pipeline.register_to_config(default_num_candidates=1)
    for file, expected in zip(one.files, kept, strict=True):
        np.testing.assert_array_equal(load_audio(file)[0], expected)


def test_a_foreign_clap_measures_all_but_the_translated_vector(
    pipeline: ImageToAudioPipeline, translator: Translator, foreign_folder: Path, folder: Path
) -> None:
    foreign = ClapEncoder.from_pretrained(foreign_folder)
    shutil.rmtree(folder / "real")
    items = read_image_dataset(folder / "images")
    found = evaluate_audio(
        pipeline,
        {"one": translator},
        items,
        folder / "sounds",
        clap=foreign,
        classifier=ZeroShotClassifier(foreign, items.labels),
        config=GenerationConfig(num_inference_steps=1, audio_length_in_s=0.1),
    )
    (one,) = found.translators
    assert one.scores.metrics.get("translated_similarity") is None
    assert one.scores.distances == {}
    assert found.real is None
    assert found.classifier is not None
    assert found.classifier.startswith("zero-shot by")
    assert not any("flatters" in note for note in found.notes)
    _, best, _, worst = example_sections(found, items)
    scores = found.per_row["one/clap_score"]
    for section, row in ((best, scores.argmax()), (worst, scores.argmin())):
        assert section.split("<figcaption>")[1].startswith(items.items[int(row)].name)
        assert section.count("data:image/jpeg") == section.count("data:audio/ogg") == 3
    ogg = best.split("data:audio/ogg;base64,")[1].split('"')[0]
    assert base64.b64decode(ogg).startswith(b"OggS")


def test_the_command_shows_audio_and_compares_them(
    musicldm_folder: Path, clip_folder: Path, translator: Translator, folder: Path, run: Run
) -> None:
    translator.save_pretrained(folder / "one")
    other = MLPTranslator(12, 16, hidden_size=8)
    other.initialize(torch.Generator().manual_seed(5))
    other.record(source_space=translator.source_space, target_space=translator.target_space)
    other.save_pretrained(folder / "two")
    shared = [
        *("--pipeline", musicldm_folder, "--clip", clip_folder, "--image-dir", folder / "images"),
        *(
            "--audio-dir",
            folder / "real",
            "--num-inference-steps",
            1,
            "--duration-s",
            0.1,
            "--resamples",
            100,
        ),
    ]
    code, out, _ = run(
        "evaluate", folder / "one", folder / "two", *shared, "-o", folder / "out", "--dtype", "fp32"
    )
    assert code == 0
    places = [out.index(word) for word in ("real audio", "one", "wrong source", "two")]
    assert places == sorted(places)
    page = (folder / "out" / "report.html").read_text()
    assert page.count("<audio") == page.count("data:image/jpeg") == 6
    assert page.count("data:image/png") == 1
    figures = json.loads((folder / "out" / "results.json").read_text())
    assert figures["embeddings"] is None
    assert figures["audio"]["protocol"] == "imagehear"
    assert figures["audio"]["classifier"].startswith("zero-shot")
    code, out, _ = run("evaluate", "--compare", folder / "out", "--json")
    assert code == 0
    by_name = {one["metric"]: one for one in json.loads(out)["results"]}
    score = figures["audio"]["translators"]
    apart = [one["scores"]["metrics"]["clap_score"]["value"] for one in score]
    assert by_name["clap_score"]["difference"]["value"] == pytest.approx(
        apart[0] - apart[1], abs=1e-6
    )
    assert {"classifier", "translated_similarity"} <= set(by_name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image-dir", "IMAGES"], "--pipeline"),
        (["--table", "IMAGES", "--classifier", "x"], "--image-dir"),
        (["--image-dir", "IMAGES", "--pipeline", "demo", "--batch-size", "0"], "--batch-size"),
        (["--image-dir", "none", "--pipeline", "demo"], "not a folder"),
        (["--image-dir", "IMAGES", "--pipeline", "AUDIOLDM", "--clip", "CLIP"], "text-only"),
    ],
)
def test_a_mistake_about_audio_is_one_line(
    arguments: list[str],
    message: str,
    audioldm_folder: Path,
    clip_folder: Path,
    folder: Path,
    run: Run,
) -> None:
    made = MLPTranslator(12, 16, hidden_size=8)
    made.initialize(torch.Generator().manual_seed(0))
    made.save_pretrained(folder / "plain")
    places: dict[str, Any] = {
        "IMAGES": folder / "images",
        "AUDIOLDM": audioldm_folder,
        "CLIP": clip_folder,
    }
    words = [places.get(word, word) for word in arguments]
    code, _, err = run("evaluate", folder / "plain", *words, "-o", folder / "out")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
