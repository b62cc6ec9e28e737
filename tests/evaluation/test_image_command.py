"""`clip2clap evaluate` on generated images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clip2clap import AutoTranslator
from clip2clap.evaluation.rows import choose_rows
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline

from .builders import (
    Run,
    back_translator,
    write_classifier,
    write_media_table,
)


def test_the_demo_s_way_back_has_a_name_of_its_own() -> None:
    back = AutoTranslator.from_pretrained("demo-back")
    assert back.source_space is not None
    assert back.target_space is not None
    assert (back.source_space.family, back.target_space.family) == ("clap", "clip")


def test_the_command_shows_images_and_round_trips_and_compares_them(
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
        *(
            "--audio-dir",
            folder / "sounds",
            "--image-dir",
            folder / "real",
            "--num-inference-steps",
            1,
        ),
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
    by_name = {one["metric"]: one for one in json.loads(out)["results"]}
    one, two = (entry["scores"] for entry in part["translators"])
    assert by_name["real_similarity"]["difference"]["value"] == pytest.approx(
        one["metrics"]["real_similarity"]["value"] - two["metrics"]["real_similarity"]["value"],
        abs=1e-6,
    )
    assert {"classifier", "translated_similarity", "round_trip"} <= set(by_name)


def test_the_command_finds_images_by_audio_in_a_table_and_makes_them(
    pipeline: AudioToImagePipeline, painter_folder: Path, tmp_path: Path, run: Run
) -> None:
    table = write_media_table(tmp_path / "table", pipeline, rows=8)
    back = back_translator(pipeline, tmp_path / "one", seed=0)
    code, out, _ = run(
        *(
            "evaluate",
            tmp_path / "one",
            "--table",
            table,
            "--label-column",
            "kind",
            "--split",
            "all",
        ),
        *(
            "--pipeline",
            painter_folder,
            "--num-inference-steps",
            1,
            "--dtype",
            "fp32",
            "--resamples",
            100,
        ),
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
        (["BACK", "--pipeline", "PAINTER", "--image-dir", "REAL"], "--audio-dir"),
        (["BACK", "--audio-dir", "SOUNDS"], "--pipeline"),
        (["BACK", "--pipeline", "MUSIC", "--audio-dir", "SOUNDS"], "MusicLDMPipeline"),
        (
            ["BACK", "--pipeline", "PAINTER", "--audio-dir", "SOUNDS", "--duration-s", "1"],
            "--duration-s",
        ),
        (["BACK", "--pipeline", "PAINTER", "--audio-dir", "none"], "not a folder"),
        (["THERE", "--pipeline", "PAINTER", "--image-dir", "REAL"], "AudioToImagePipeline"),
        (["THERE", "--pipeline", "MUSIC", "--audio-dir", "SOUNDS"], "--image-dir"),
        (
            ["THERE", "--pipeline", "MUSIC", "--image-dir", "REAL", "--contact-sheet"],
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
def test_a_mistake_about_images_is_one_line(
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
        "TABLE": write_media_table(folder / "table", pipeline, rows=4),
        "CAPTIONS": write_media_table(folder / "captions", pipeline, rows=4, modality="text"),
    }
    words = [places.get(word, word) for word in arguments]
    code, _, err = run("evaluate", *words, "-o", folder / "out")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
