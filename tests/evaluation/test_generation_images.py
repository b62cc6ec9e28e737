"""Evaluation of generated images by pipelines of known worth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clip2clap import ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
)
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.evaluation.datasets import (
    audio_dataset_from_rows,
)
from clip2clap.evaluation.report.examples import example_sections
from clip2clap.evaluation.rows import choose_rows
from clip2clap.inference.audio_to_image import AudioToImageOutput, AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.media.writing import write_audio
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.translator.mlp import MLPTranslator

from .builders import (
    COLORS,
    LABELS,
    RATE,
    measure,
    value,
    write_color,
    write_media_table,
    write_tone,
)


def nearest(embeds: Tensor, among: Tensor) -> list[int]:
    # Small networks that learnt nothing place all recordings within 1e-3 of each other, where
    # dot products in float32 are equal but for rounding: only differences tell them apart.
    return (embeds[:, None] - among).norm(dim=-1).argmin(1).tolist()


def test_metrics_are_those_of_the_cached_images(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    found = measure(pipeline, folder)
    (one,) = found.translators
    clip = pipeline.clip
    assert clip is not None
    seen = clip.encode_image([Image.open(file) for file in one.files])
    photographs = sorted((folder / "real").rglob("*.png"))
    real = clip.encode_image([Image.open(file) for file in photographs])
    assert one.scores.distances["fd"] == pytest.approx(frechet_distance(seen.numpy(), real.numpy()))
    assert one.scores.distances["kd"] == pytest.approx(kernel_distance(seen.numpy(), real.numpy()))
    files = sorted((folder / "sounds").rglob("*.wav"))
    told = pipeline.translate(pipeline.encode_audio(files)).detach()
    assert value(one.scores.metrics.get("translated_similarity")) == pytest.approx(
        (seen * told).sum(1).mean().item(), abs=1e-5
    )
    # Held against the four photographs of its own kind, and for control against the other's.
    alike = (seen @ real.T).reshape(2, 3, 2, 4).mean((1, 3))
    assert value(one.scores.metrics.get("real_similarity")) == pytest.approx(
        alike.diagonal().mean().item(), abs=1e-6
    )
    assert value(one.wrong_source.metrics.get("real_similarity")) == pytest.approx(
        alike.flip(1).diagonal().mean().item(), abs=1e-6
    )
    assert one.wrong_source.distances["fd"] == one.scores.distances["fd"]
    assert one.scores.seconds is not None
    assert one.scores.seconds > 0
    assert any("flatters" in note for note in found.notes)
    # The same picture that audio-to-image makes of the recording alone.
    again = pipeline(
        files[4], generator=[torch.Generator().manual_seed(4)], num_inference_steps=2
    ).images
    assert np.asarray(again[0]) == pytest.approx(np.asarray(Image.open(one.files[4])), abs=1)


def test_real_images_are_classified_right_and_the_wrong_source_is_of_the_other_class(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    write_color(folder / "real" / "stranger" / "0.png", (0, 200, 0))
    found = measure(pipeline, folder)
    assert found.real is not None
    assert found.real.files == 9
    # The stranger is of no recording's kind, so that nobody can name it.
    assert value(found.real.metrics.get("classifier")) == 1
    (one,) = found.translators
    assert value(one.scores.metrics.get("classifier")) + value(
        one.wrong_source.metrics.get("classifier")
    ) == pytest.approx(1)
    assert one.confusion is not None
    assert np.trace(one.confusion) == round(6 * value(one.scores.metrics.get("classifier")))
    assert np.sum(one.confusion, axis=1).tolist() == [3, 3]


@pytest.mark.parametrize("listens", [True, False])
def test_images_beat_the_wrong_source_only_where_the_pipeline_listens(
    listens: bool,
    pipeline: AudioToImagePipeline,
    generator: ImageToAudioPipeline,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rigged: one paints the color of the vector's kind, the other paints by turns."""
    for at, kind in enumerate(LABELS):
        write_tone(folder / "sounds" / kind / "3.wav", (990, 290)[at])
    files = sorted((folder / "sounds").rglob("*.wav"))
    told = pipeline.translate(pipeline.encode_audio(files))

    def paint(self: AudioToImagePipeline, *, image_embeds: Tensor, **_: Any) -> AudioToImageOutput:
        near = nearest(image_embeds, told)
        kinds = [place // 4 if listens else place % 2 for place in near]
        pictures = [Image.new("RGB", (32, 32), COLORS[kind]) for kind in kinds]
        return AudioToImageOutput(images=pictures, image_embeds=image_embeds)

    def make(self: ImageToAudioPipeline, *, prompt_embeds: Tensor, **_: Any) -> Any:
        clip, back = generator.clip, generator.translator
        assert clip is not None
        assert back is not None
        kinds = back(clip.encode_image([Image.new("RGB", (32, 32), color) for color in COLORS]))
        near = nearest(prompt_embeds, kinds)
        waves = [load_audio(files[4 * kind])[0] for kind in near]
        output = type("Output", (), {"audios": np.stack(waves), "sampling_rate": RATE})
        return output()

    monkeypatch.setattr(AudioToImagePipeline, "__call__", paint)
    monkeypatch.setattr(ImageToAudioPipeline, "__call__", make)
    (one,) = measure(pipeline, folder, round_trip=generator).translators
    assert one.round_trip is not None
    judged = (
        value(one.scores.metrics.get("classifier")),
        value(one.wrong_source.metrics.get("classifier")),
    )
    alike = (
        value(one.scores.metrics.get("real_similarity")),
        value(one.wrong_source.metrics.get("real_similarity")),
    )
    trips = one.round_trip.scores, one.round_trip.wrong_source
    if listens:
        assert judged == (1, 0)
        assert alike[0] > alike[1]
        assert trips[0].similarity.value > trips[1].similarity.value
    else:
        assert judged == (0.5, 0.5)
        assert alike[0] == pytest.approx(alike[1], abs=1e-6)
        assert value(trips[0].nearest_label) == value(trips[1].nearest_label)
        assert trips[0].similarity.value == pytest.approx(trips[1].similarity.value, abs=1e-6)


def test_a_run_that_was_stopped_goes_on_with_what_is_missing_on_both_ways(
    pipeline: AudioToImagePipeline,
    generator: ImageToAudioPipeline,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, int]] = []
    for kind, argument in (
        (AudioToImagePipeline, "image_embeds"),
        (ImageToAudioPipeline, "prompt_embeds"),
    ):

        def count(
            self: Any, *, make: Any = kind.__call__, argument: str = argument, **options: Any
        ) -> Any:
            asked.append((argument, len(options[argument])))
            return make(self, **options)

        monkeypatch.setattr(kind, "__call__", count)
    first = measure(pipeline, folder, round_trip=generator, batch_size=4)
    assert asked == [
        ("image_embeds", 4),
        ("image_embeds", 2),
        ("prompt_embeds", 4),
        ("prompt_embeds", 2),
    ]
    file = first.translators[0].files[3]
    before = np.asarray(Image.open(file))
    file.unlink()
    sorted((folder / "made" / "one" / "back").glob("*.wav"))[1].unlink()
    asked.clear()
    again = measure(pipeline, folder, round_trip=generator, batch_size=4)
    assert asked == [("image_embeds", 1), ("prompt_embeds", 1)]
    assert np.asarray(Image.open(file)) == pytest.approx(before, abs=1)
    round_trips = [each.translators[0].round_trip for each in (again, first)]
    similarities = [each.scores.similarity.value for each in round_trips if each is not None]
    assert similarities[0] == pytest.approx(similarities[1], abs=1e-5)
    asked.clear()
    measure(pipeline, folder, seed=9, batch_size=6)
    assert asked == [("image_embeds", 6)]


def test_a_tables_images_are_generated_from_its_embeddings_and_compared_with_its_own(
    pipeline: AudioToImagePipeline, foreign_clip_folder: Path, tmp_path: Path
) -> None:
    table = write_media_table(tmp_path / "table", pipeline, rows=8)
    rows = choose_rows(table, source="clap", target="clip", labels="kind", split="all")
    dataset = audio_dataset_from_rows(rows)
    assert pipeline.clip is not None
    classifier = ZeroShotClassifier(pipeline.clip, dataset.labels)
    found = measure(pipeline, tmp_path, dataset=dataset, classifier=classifier)
    (one,) = found.translators
    seen = pipeline.clip.encode_image([Image.open(file) for file in one.files])
    own, heard = rows.pairs.target, rows.pairs.source
    assert value(one.scores.metrics.get("real_similarity")) == pytest.approx(
        (seen * own).sum(1).mean().item(), abs=1e-6
    )
    assert value(one.scores.metrics.get("translated_similarity")) == pytest.approx(
        (seen * pipeline.translate(heard)).sum(1).mean().item(), abs=1e-5
    )
    # Two rows share their picture, which counts once.
    assert found.real is not None
    assert found.real.files == 7
    assert one.scores.distances["kd"] == pytest.approx(
        kernel_distance(seen.numpy(), own[:7].numpy())
    )
    assert found.real.metrics.get("classifier") is not None
    sections = "".join(example_sections(found, dataset))
    assert "<figure>" in sections
    assert "<audio" not in sections
    # Another CLIP than the table's knows nothing of its pictures, and there are no files of them.
    another = ClipEncoder.from_pretrained(foreign_clip_folder)
    blind = measure(pipeline, tmp_path, dataset=dataset, classifier=None, clip=another)
    assert blind.real is None
    assert blind.translators[0].scores.metrics.get("translated_similarity") is None
    assert blind.translators[0].scores.metrics.get("real_similarity") is None


def test_silence_and_models_that_were_not_made_for_each_other_are_refused(
    pipeline: AudioToImagePipeline, generator: ImageToAudioPipeline, folder: Path
) -> None:
    assert generator.translator is not None
    with pytest.raises(SpaceMismatchError):
        measure(pipeline, folder, translators={"there": generator.translator})
    write_audio(folder / "sounds" / "dog" / "3.wav", np.zeros(RATE, np.float32), RATE)
    with pytest.raises(UserError, match=r"dog/3\.wav is silent"):
        measure(pipeline, folder)
    strange = MLPTranslator(16, 12, hidden_size=8)
    other = EmbeddingSpace("clap", "another", "audio", 16, True, "0ther")
    strange.record(source_space=other)
    with pytest.raises(SpaceMismatchError):
        measure(pipeline, folder, translators={"strange": strange})
