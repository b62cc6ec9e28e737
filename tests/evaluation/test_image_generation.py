"""Evaluations of pictures whose worth is known, round trips, and what the command shows of them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
)
from clip2clap.embeddings.table.reader import TableWriter
from clip2clap.evaluation.cache import GenerationConfig
from clip2clap.evaluation.classifiers import TransformersClassifier, ZeroShotClassifier
from clip2clap.evaluation.cycle import measure_round_trip
from clip2clap.evaluation.datasets import (
    audio_dataset_from_rows,
    read_audio_dataset,
    read_image_dataset,
)
from clip2clap.evaluation.generation.audio import evaluate_audio
from clip2clap.evaluation.generation.base import GenerationEvaluation
from clip2clap.evaluation.generation.images import evaluate_images
from clip2clap.evaluation.report.contact_sheet import SheetRow, sheet_rows, write_contact_sheet
from clip2clap.evaluation.report.examples import select_examples
from clip2clap.evaluation.rows import choose_rows
from clip2clap.inference.audio_to_image import AudioToImageOutput, AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.audio import load_audio
from clip2clap.media.audio_writer import write_audio
from clip2clap.metrics.bootstrap import Resamples
from clip2clap.metrics.distribution import frechet_distance, kernel_distance
from clip2clap.translator.base import Translator
from clip2clap.translator.mlp import MLPTranslator

Run = Callable[..., tuple[int, str, str]]
KINDS = ("dog", "sea_wave")
COLOURS = ((200, 30, 30), (30, 30, 200))
RATE = 16_000
CONFIG = GenerationConfig(num_inference_steps=2, resamples=200)


def picture(path: Path, colour: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32), tuple(colour)).save(path)  # pyright: ignore[reportArgumentType]


def sound(path: Path, hertz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(RATE // 2) / RATE
    write_audio(path, 0.5 * np.sin(2 * np.pi * hertz * times).astype(np.float32), RATE)


def vectors(count: int, dim: int, *, seed: int = 0) -> Tensor:
    return unit_norm(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)))


def nearest(embeds: Tensor, among: Tensor) -> list[int]:
    # Small networks that learnt nothing place all recordings within 1e-3 of each other, where
    # dot products in float32 are equal but for rounding: only differences tell them apart.
    return (embeds[:, None] - among).norm(dim=-1).argmin(1).tolist()


class ColorClassifier:
    """Knows a dog, which is red, from a wave, which is blue."""

    name = "colour"

    def __call__(self, things: Sequence[Image.Image], embeds: Tensor) -> list[str]:
        means = [np.asarray(one).mean((0, 1)) for one in things]
        return ["dog" if red > blue else "sea wave" for red, _, blue in means]


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
    for at, kind in enumerate(KINDS):
        for number in range(3):
            sound(tmp_path / "sounds" / kind / f"{number}.wav", (900, 200)[at] + 30 * number)
        for number in range(4):
            colour = [value + 9 * number for value in COLOURS[at]]
            picture(tmp_path / "real" / kind / f"own {number}.png", colour)
    return tmp_path


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


def value(figure: Any) -> float:
    assert figure is not None
    return figure.value


# Picture level


def test_figures_are_those_of_the_pictures_that_were_kept(
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


def test_real_pictures_are_named_right_and_the_wrong_source_is_of_the_other_kind(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    picture(folder / "real" / "stranger" / "0.png", (0, 200, 0))
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
def test_pictures_beat_the_wrong_source_only_where_the_pipeline_listens(
    listens: bool,
    pipeline: AudioToImagePipeline,
    generator: ImageToAudioPipeline,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rigged: one paints the colour of the vector's kind, the other paints by turns."""
    for at, kind in enumerate(KINDS):
        sound(folder / "sounds" / kind / "3.wav", (990, 290)[at])
    files = sorted((folder / "sounds").rglob("*.wav"))
    told = pipeline.translate(pipeline.encode_audio(files))

    def paint(self: AudioToImagePipeline, *, image_embeds: Tensor, **_: Any) -> AudioToImageOutput:
        near = nearest(image_embeds, told)
        kinds = [place // 4 if listens else place % 2 for place in near]
        pictures = [Image.new("RGB", (32, 32), COLOURS[kind]) for kind in kinds]
        return AudioToImageOutput(images=pictures, image_embeds=image_embeds)

    def make(self: ImageToAudioPipeline, *, prompt_embeds: Tensor, **_: Any) -> Any:
        clip, back = generator.clip, generator.translator
        assert clip is not None
        assert back is not None
        kinds = back(clip.encode_image([Image.new("RGB", (32, 32), colour) for colour in COLOURS]))
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
    before = file.read_bytes()
    file.unlink()
    sorted((folder / "made" / "one" / "back").glob("*.wav"))[1].unlink()
    asked.clear()
    again = measure(pipeline, folder, round_trip=generator, batch_size=4)
    assert asked == [("image_embeds", 1), ("prompt_embeds", 1)]
    assert file.read_bytes() == before
    assert again.translators[0].round_trip == first.translators[0].round_trip
    asked.clear()
    measure(pipeline, folder, seed=9, batch_size=6)
    assert asked == [("image_embeds", 6)]


def test_a_table_s_pictures_are_made_of_its_vectors_and_held_against_its_own(
    pipeline: AudioToImagePipeline, foreign_clip_folder: Path, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table", pipeline, rows=8)
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
    assert select_examples(found, dataset)[0][0].audio is None
    # Another CLIP than the table's knows nothing of its pictures, and there are no files of them.
    another = ClipEncoder.from_pretrained(foreign_clip_folder)
    blind = measure(pipeline, tmp_path, dataset=dataset, classifier=None, clip=another)
    assert blind.real is None
    assert blind.translators[0].scores.metrics.get("translated_similarity") is None
    assert blind.translators[0].scores.metrics.get("real_similarity") is None


def write_table(
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
            {"kind": [KINDS[n * 2 // rows] for n in range(rows)]},
            dict(zip(spaces, (pictures, vectors(rows, 16, seed=1)), strict=True)),
        )
    return folder


def test_a_table_without_pictures_is_refused(
    pipeline: AudioToImagePipeline, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table", pipeline, rows=4, modality="text")
    rows = choose_rows(table, source="clap", target="clip", split="all")
    with pytest.raises(UserError, match="'clip_text' holds embeddings of text, not of image"):
        audio_dataset_from_rows(rows)
    rows = choose_rows(table, source="clip", target="clap", split="all")
    with pytest.raises(UserError, match="not of audio"):
        audio_dataset_from_rows(rows)


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


# Takes


def test_folders_of_recordings_say_what_belongs_to_them(folder: Path, tmp_path: Path) -> None:
    classes = read_audio_dataset(folder / "sounds", folder / "real")
    assert (classes.protocol, classes.labels) == ("classes", ["dog", "sea wave"])
    assert [item.name for item in classes.items][:4] == [
        "dog/0",
        "dog/1",
        "dog/2",
        "sea_wave/0",
    ]
    assert [photograph.label for photograph in classes.references] == ["dog"] * 4 + ["sea wave"] * 4
    assert read_audio_dataset(folder / "sounds" / "dog").protocol == "recordings"
    for number in range(3):
        picture(folder / "own" / "dog" / f"{number}.jpg", COLOURS[0])
        picture(folder / "own" / "sea_wave" / f"{number}.jpg", COLOURS[1])
    own = read_audio_dataset(folder / "sounds", folder / "own")
    assert own.protocol == "pairs"
    assert [(p.path.parent.name, p.label) for p in own.references][2:4] == [
        ("dog", "dog"),
        ("sea_wave", "sea wave"),
    ]
    (folder / "own" / "dog" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"Only 5 of 6 .* image"):
        read_audio_dataset(folder / "sounds", folder / "own")
    sound(folder / "sounds" / "alone.wav", 400)
    with pytest.raises(UserError, match=r"Only 6 of 7 .* label"):
        read_audio_dataset(folder / "sounds")
    with pytest.raises(UserError, match="at least two audio files"):
        read_audio_dataset(folder / "real")
    sound(folder / "sounds" / "alone.flac", 400)
    with pytest.raises(UserError, match="called alone"):
        read_audio_dataset(folder / "sounds")


# Judges


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


def test_a_classifier_of_pictures_judges_among_the_kinds(tmp_path: Path) -> None:
    write_classifier(tmp_path)
    # Of the kinds, wave is the likeliest.
    classifier = TransformersClassifier(tmp_path, ["dog", "sea wave"], task="image-classification")
    shown = [Image.new("RGB", (20, 30)), Image.new("L", (9, 9))]
    assert classifier(shown, torch.zeros(2, 1)) == ["sea wave"] * 2
    with pytest.raises(UserError, match="as an image classifier"):
        TransformersClassifier(tmp_path / "none", ["dog"], task="image-classification")


# Round trips


def test_ends_that_came_back_are_told_from_those_that_did_not() -> None:
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


def test_recordings_go_there_and_back(
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


def test_photographs_go_there_and_back(
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


# Contact sheet


def test_a_contact_sheet_shows_the_first_recording_of_each_kind(
    pipeline: AudioToImagePipeline, folder: Path
) -> None:
    dataset = read_audio_dataset(folder / "sounds", folder / "real")
    assert pipeline.translator is not None
    rows = sheet_rows(pipeline, pipeline.translator, dataset, config=CONFIG)
    assert [(row.name, len(row.images)) for row in rows] == [("dog", 3), ("sea wave", 3)]
    (one,) = measure(pipeline, folder).translators
    assert np.asarray(rows[1].images[0]) == pytest.approx(
        np.asarray(Image.open(one.files[3])), abs=1
    )
    with pytest.raises(UserError, match="subfolder per class"):
        sheet_rows(pipeline, pipeline.translator, read_audio_dataset(folder / "sounds" / "dog"))


def test_rows_of_a_contact_sheet_stand_one_below_the_other(tmp_path: Path) -> None:
    tone = np.sin(np.arange(RATE) / 3).astype(np.float32), RATE
    plain = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    rows = [SheetRow(str(at), tone, plain[at:] + plain[:at]) for at in range(3)]
    write_contact_sheet(tmp_path / "sheet.png", rows, side=40, columns=1)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    seen = np.asarray(sheet).astype(int)
    place = np.argwhere(np.abs(seen - (255, 0, 0)).sum(2) < 30)
    # Red is first in the first row, third in the second, second in the third.
    tops = sorted({int(top) // 46 for top, _ in place})
    lefts = [int(place[place[:, 0] // 46 == top][:, 1].min()) for top in tops]
    assert tops == [0, 1, 2]
    assert [lefts[1] - lefts[0], lefts[2] - lefts[0]] == [2 * 46, 46]
    for wrong in ([], [rows[0], SheetRow("x", tone, plain[:2])]):
        with pytest.raises(UserError, match="equal numbers of images"):
            write_contact_sheet(tmp_path / "sheet.png", wrong)


# The command


def test_the_demo_s_way_back_has_a_name_of_its_own() -> None:
    back = AutoTranslator.from_pretrained("demo-back")
    assert back.source_space is not None
    assert back.target_space is not None
    assert (back.source_space.family, back.target_space.family) == ("clap", "clip")


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


def test_the_command_shows_pictures_and_round_trips_and_compares_them(
    pipeline: AudioToImagePipeline,
    generator: ImageToAudioPipeline,
    painter_folder: Path,
    folder: Path,
    run: Run,
) -> None:
    for seed, name in enumerate(("one", "two")):
        back_translator(pipeline, folder / name, seed=seed)
    generator.save_pretrained(folder / "generator")
    code, out, _ = run(
        *("evaluate", folder / "one", folder / "two", "--pipeline", painter_folder),
        *("--recordings", folder / "sounds", "--images", folder / "real", "--steps", 1),
        *("--round-trip", folder / "generator", "--contact-sheet", "--dtype", "fp32"),
        *("-o", folder / "out", "--resamples", 100),
    )
    assert code == 0
    words = ("real images", "one", "wrong source", "two", "round trip")
    places = [out.index(word) for word in words]
    assert places == sorted(places)
    figures = json.loads((folder / "out" / "results.json").read_text())
    assert (figures["embeddings"], figures["audio"]) == (None, None)
    part = figures["images"]
    assert part["protocol"] == "classes"
    assert part["classifier"].startswith("zero-shot")
    page = (folder / "out" / "report.html").read_text()
    # Three best and three worst: a spectrogram, a player and the picture that was made.
    assert page.count("<audio") == 6
    assert page.count("data:image/jpeg") == 12
    assert "Audio to image to audio" in page
    with Image.open(folder / "out" / "contact-sheet.png") as sheet:
        assert sheet.width > sheet.height
    code, out, _ = run("evaluate", "--compare", folder / "out", "--json")
    assert code == 0
    by_name = {one["metric"]: one for one in json.loads(out)}
    one, two = (entry["scores"] for entry in part["translators"])
    assert by_name["real_similarity"]["difference"]["value"] == pytest.approx(
        one["metrics"]["real_similarity"]["value"] - two["metrics"]["real_similarity"]["value"],
        abs=1e-6,
    )
    assert {"classifier", "translated_similarity", "round_trip"} <= set(by_name)


def test_the_command_finds_pictures_by_sounds_in_a_table_and_makes_them(
    pipeline: AudioToImagePipeline, painter_folder: Path, tmp_path: Path, run: Run
) -> None:
    table = write_table(tmp_path / "table", pipeline, rows=8)
    back = back_translator(pipeline, tmp_path / "one", seed=0)
    code, out, _ = run(
        *("evaluate", tmp_path / "one", "--table", table, "--labels", "kind", "--split", "all"),
        *("--pipeline", painter_folder, "--steps", 1, "--dtype", "fp32", "--resamples", 100),
        *("--classifier", write_classifier(tmp_path / "classifier"), "-o", tmp_path / "out"),
    )
    assert code == 0
    assert "images by translated audio" in out
    assert (
        "Retrieval of images by translated audio" in (tmp_path / "out" / "report.html").read_text()
    )
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    part = figures["embeddings"]
    assert (part["source_column"], part["target_column"]) == ("clap_audio", "clip_image")
    pairs = choose_rows(table, source="clap_audio", target="clip_image", split="all").pairs
    with torch.no_grad():
        similar = back(pairs.source) @ pairs.target[:7].T
    truth = [*range(7), 6]
    ranks = [int((row > row[at]).sum()) + 1 for row, at in zip(similar, truth, strict=True)]
    found = part["translators"][0]["scores"]["forward"]["mrr"]["value"]
    assert found == pytest.approx(np.mean([1 / rank for rank in ranks]))
    made = figures["images"]
    assert (made["protocol"], made["rows"]) == ("table", 8)
    # It takes all for waves, which half of them are; the real ones are vectors, which it can't see.
    assert made["classifier"] == str(tmp_path / "classifier")
    assert made["translators"][0]["scores"]["metrics"]["classifier"]["value"] == 0.5
    assert "classifier" not in made["real"]["metrics"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["BACK", "--pipeline", "PAINTER"], "--table"),
        (["BACK", "--pipeline", "PAINTER", "--images", "REAL"], "--recordings"),
        (["BACK", "--recordings", "SOUNDS"], "--pipeline"),
        (["BACK", "--pipeline", "MUSIC", "--recordings", "SOUNDS"], "MusicLDMPipeline"),
        (
            ["BACK", "--pipeline", "PAINTER", "--recordings", "SOUNDS", "--seconds", "1"],
            "--seconds",
        ),
        (["BACK", "--pipeline", "PAINTER", "--recordings", "none"], "not a folder"),
        (["THERE", "--pipeline", "PAINTER", "--images", "REAL"], "AudioToImagePipeline"),
        (["THERE", "--pipeline", "MUSIC", "--recordings", "SOUNDS"], "--images"),
        (
            ["THERE", "--pipeline", "MUSIC", "--images", "REAL", "--contact-sheet"],
            "--contact-sheet",
        ),
        (["THERE", "BACK", "--table", "TABLE"], "of one direction"),
        (
            ["BACK", "--pipeline", "PAINTER", "--table", "CAPTIONS", "--split", "all"],
            "not of image",
        ),
        (
            ["BACK", "--pipeline", "PAINTER", "--table", "TABLE", "--contact-sheet"],
            "--contact-sheet",
        ),
    ],
)
def test_a_mistake_about_pictures_is_one_line(
    arguments: list[str],
    message: str,
    pipeline: AudioToImagePipeline,
    generator: ImageToAudioPipeline,
    painter_folder: Path,
    musicldm_folder: Path,
    folder: Path,
    run: Run,
) -> None:
    back_translator(pipeline, folder / "back", seed=0)
    assert generator.translator is not None
    generator.translator.save_pretrained(folder / "there")
    places: dict[str, Any] = {
        "BACK": folder / "back",
        "THERE": folder / "there",
        "PAINTER": painter_folder,
        "MUSIC": musicldm_folder,
        "SOUNDS": folder / "sounds",
        "REAL": folder / "real",
        "TABLE": write_table(folder / "table", pipeline, rows=4),
        "CAPTIONS": write_table(folder / "captions", pipeline, rows=4, modality="text"),
    }
    words = [places.get(word, word) for word in arguments]
    code, _, err = run("evaluate", *words, "-o", folder / "out")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
