"""The verb `guide`."""

import json
import zipfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.media.audio import load_audio


@pytest.fixture
def noise(tmp_path):
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write(tmp_path / "noise.wav", waveform, 16_000)
    return tmp_path / "noise.wav"


QUICK = ("--steps", 2, "--gradient-steps", 1, "--cutouts", 1, "--cut-size", 64)


def test_images_and_their_similarities_are_written(run, noise, tmp_path):
    targets = ["--target-text", "a red dog:1", "--target-audio", f"{noise}:-0.3"]
    options = ["--break-audio", 1, "--batches", 2, "-o", tmp_path / "out", "--json"]
    code, out, _ = run("guide", *targets, *QUICK, *options)
    assert code == 0
    results = json.loads(out)["results"]
    assert [each["seed"] for each in results] == [0, 1]
    for each in results:
        assert Image.open(each["output"]).size == (64, 64)
        beside = json.loads((tmp_path / "out").joinpath(each["output"][:-4] + ".json").read_text())
        assert beside == each
        caption = tmp_path / "out" / (each["output"].rpartition("/")[2][:-4] + ".txt")
        assert caption.read_text() == f"{each['caption']}\n"
    names = [each["target"] for each in results[0]["similarities"]]
    assert names == ["a red dog", str(noise)]


def test_strength_0_gives_the_unguided_similarities(run, tmp_path):
    options = ["--guidance-strength", 0, "--condition", "none", "-o", tmp_path / "a.png", "--json"]
    code, out, _ = run("guide", "--target-text", "fire", *QUICK, *options)
    (entry,) = json.loads(out)["results"]
    assert code == 0
    assert entry["similarities"][0]["similarity"] == entry["similarities"][0]["unguided"]


def test_frames_a_film_and_a_zip_are_written(run, noise, tmp_path):
    targets = ["--target-text", "dog", "--target-audio", f"{noise}:0.5", "--break-audio", 1]
    extras = ["--save-every", 1, "--steps-film", "--zip", "-o", tmp_path / "out", "--json"]
    code, out, _ = run("guide", *targets, *QUICK, *extras)
    assert code == 0
    settings, out = json.loads(out)["settings"], tmp_path / "out"
    frames = ["guided-frames/00001.png", "guided-frames/00002.png"]
    with zipfile.ZipFile(settings["zip_file"]) as archive:
        packed = archive.namelist()
    expected = ["guided.png", "guided.json", "guided.txt", *frames, "film.mp4"]
    assert sorted(packed) == sorted(expected)
    first, last = (np.asarray(Image.open(out / name)).astype(int) for name in frames)
    finished = np.asarray(Image.open(out / "guided.png")).astype(int)
    assert np.abs(last - finished).mean() < np.abs(first - finished).mean()
    assert len(load_audio(settings["film"])[0]) / 48_000 == pytest.approx(1, abs=0.1)


def test_skipped_steps_leave_more_of_the_initial_image(run, tmp_path):
    start = tmp_path / "start.png"
    Image.fromarray(np.tile(np.arange(0, 256, 4).astype(np.uint8), (64, 1))).convert("RGB").save(
        start
    )
    distances = []
    for skipped in (0, 3):
        out = tmp_path / f"{skipped}.png"
        options = ["--init-image", start, "--skip-timesteps", skipped, "--steps", 4, "-o", out]
        code, _, _ = run("guide", "--target-text", "dog", *QUICK[2:], *options)
        assert code == 0
        distances.append(np.abs(np.asarray(Image.open(out)).astype(int) - Image.open(start)).mean())
    assert distances[1] < 0.7 * distances[0]


def test_audio_is_guided_too(run, noise, tmp_path):
    targets = ["--target-text", "the sound of a dog:1", "--target-audio", f"{noise}:-0.3"]
    quick = ["--steps", 2, "--gradient-steps", 1, "--cutouts", 1, "--break-audio", 1]
    out = tmp_path / "bark.wav"
    code, shown, _ = run("guide", *targets, *quick, "--duration-s", 1, "-o", out, "--json")
    assert code == 0
    (entry,) = json.loads(shown)["results"]
    assert entry["output"] == str(out)
    assert len(load_audio(out)[0]) == 16_000
    dog, other = entry["similarities"]
    assert dog["similarity"] > dog["unguided"]
    assert other["weight"] == -0.3
    assert (tmp_path / "bark.txt").read_text().strip() == entry["caption"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "x.wav", "--target-text", "dog", "--tv-scale", "1"],
            "--tv-scale: it is for images",
        ),
        (["--target-text", "dog", "--duration-s", "1"], "--duration-s: it is for audio"),
        (["--target-text", "dog", "--skip-timesteps", "1"], "--skip-timesteps: there is no image"),
        (["--target-text", "dog", "--init-scale", "1"], "--init-scale: there is no image"),
        (["--target-text", "dog", "--unconditional", "no.pt"], "no.pt does not exist"),
        (
            ["--target-text", "dog", "--target-text", "dog:-1"],
            "The targets 'dog' and 'dog' are the same",
        ),
        ([], "there is no target with a weight other than 0"),
        (["--target-text", "dog:0"], "there is no target with a weight other than 0"),
        (["--target-text", "dog:-1"], "--condition: no target has a weight above 0"),
        (["--target-text", "dog:much"], "--target-text: expected TEXT:WEIGHT"),
        (["--target-audio", "nope.wav"], "nope.wav does not exist"),
        (["--target-text", "dog", "--guide-from", "0.5", "--guide-until", "0.5"], "--guide-from"),
        (["--target-text", "dog", "--guidance-strength", "-1"], "expected 0 to 100"),
    ],
)
def test_a_mistake_is_one_line(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, _, error = run("guide", *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
