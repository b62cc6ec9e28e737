"""Data sets in folders."""

from pathlib import Path

import pytest

from clip2clap.core.errors import UserError
from clip2clap.evaluation.datasets import (
    audio_dataset_from_rows,
    read_audio_dataset,
    read_image_dataset,
)
from clip2clap.evaluation.rows import choose_rows
from clip2clap.inference.audio_to_image import AudioToImagePipeline

from .builders import (
    COLORS,
    LABELS,
    write_color,
    write_media_table,
    write_tone,
)


def test_folders_of_classes_are_imagehears_protocol(tmp_path: Path) -> None:
    for kind in LABELS:
        for number in range(2):
            write_color(tmp_path / "images" / kind / f"{number}.png", (9, 9, 9))
            write_tone(tmp_path / "sounds" / kind / f"other {number}.wav", 300)
    (tmp_path / "images" / "dog" / "1.txt").write_text(" a dog barks \n")
    alone = read_image_dataset(tmp_path / "images")
    assert (alone.protocol, alone.references) == ("imagehear", [])
    assert alone.labels == ["dog", "sea wave"]
    assert [item.name for item in alone.items] == [
        "dog/0",
        "dog/1",
        "sea_wave/0",
        "sea_wave/1",
    ]
    assert [item.text for item in alone.items][:3] == [
        "the sound of a dog",
        "a dog barks",
        "the sound of a sea wave",
    ]
    beside = read_image_dataset(tmp_path / "images", tmp_path / "sounds")
    assert beside.protocol == "imagehear"
    assert [recording.label for recording in beside.references] == ["dog"] * 2 + ["sea wave"] * 2


@pytest.mark.parametrize("apart", [False, True])
def test_frames_beside_their_audio_are_vggsounds_protocol(apart: bool, tmp_path: Path) -> None:
    images, sounds = tmp_path / "a", tmp_path / ("b" if apart else "a")
    for stem in ("x_1", "x_2"):
        write_color(images / f"{stem}.jpg", (9, 9, 9))
        write_tone(sounds / f"{stem}.flac", 300)
        (images / f"{stem}.txt").write_text(f"words of {stem}")
    found = read_image_dataset(images, sounds if apart else None)
    assert found.protocol == "vggsound"
    assert found.labels == []
    assert [(r.path and r.path.name, r.text) for r in found.references] == [
        ("x_1.flac", "words of x_1"),
        ("x_2.flac", "words of x_2"),
    ]


def test_folders_that_cannot_be_measured_are_refused(tmp_path: Path) -> None:
    write_color(tmp_path / "a.png", (1, 1, 1))
    with pytest.raises(UserError, match="at least two images"):
        read_image_dataset(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        read_image_dataset(tmp_path / "none")
    write_color(tmp_path / "b.png", (1, 1, 1))
    with pytest.raises(UserError, match="at least two audio files"):
        read_image_dataset(tmp_path, tmp_path)
    write_tone(tmp_path / "a.wav", 300)
    with pytest.raises(UserError, match=r"Only 1 of 2 .* recording"):
        read_image_dataset(tmp_path)
    (tmp_path / "a.wav").unlink()
    write_color(tmp_path / "dog" / "c.png", (1, 1, 1))
    with pytest.raises(UserError, match=r"Only 1 of 3 .* label"):
        read_image_dataset(tmp_path)
    (tmp_path / "dog" / "c.png").unlink()
    write_color(tmp_path / "b.jpg", (1, 1, 1))
    with pytest.raises(UserError, match="called b"):
        read_image_dataset(tmp_path)


def test_folders_of_audio_say_what_belongs_to_them(folder: Path, tmp_path: Path) -> None:
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
        write_color(folder / "own" / "dog" / f"{number}.jpg", COLORS[0])
        write_color(folder / "own" / "sea_wave" / f"{number}.jpg", COLORS[1])
    own = read_audio_dataset(folder / "sounds", folder / "own")
    assert own.protocol == "pairs"
    assert [(p.path and p.path.parent.name, p.label) for p in own.references][2:4] == [
        ("dog", "dog"),
        ("sea_wave", "sea wave"),
    ]
    (folder / "own" / "dog" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"Only 5 of 6 .* image"):
        read_audio_dataset(folder / "sounds", folder / "own")
    write_tone(folder / "sounds" / "alone.wav", 400)
    with pytest.raises(UserError, match=r"Only 6 of 7 .* label"):
        read_audio_dataset(folder / "sounds")
    with pytest.raises(UserError, match="at least two audio files"):
        read_audio_dataset(folder / "real")
    write_tone(folder / "sounds" / "alone.flac", 400)
    with pytest.raises(UserError, match="called alone"):
        read_audio_dataset(folder / "sounds")


def test_a_table_without_images_is_refused(pipeline: AudioToImagePipeline, tmp_path: Path) -> None:
    table = write_media_table(tmp_path / "table", pipeline, rows=4, modality="text")
    rows = choose_rows(table, source="clap", target="clip", split="all")
    with pytest.raises(UserError, match="'clip_text' holds embeddings of text, not of image"):
        audio_dataset_from_rows(rows)
    rows = choose_rows(table, source="clip", target="clap", split="all")
    with pytest.raises(UserError, match="not of audio"):
        audio_dataset_from_rows(rows)
