"""The verb `guide`."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image


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
    names = [each["target"] for each in results[0]["similarities"]]
    assert names == ["a red dog", str(noise)]


def test_strength_0_gives_the_unguided_similarities(run, tmp_path):
    options = ["--guidance-strength", 0, "--condition", "none", "-o", tmp_path / "a.png", "--json"]
    code, out, _ = run("guide", "--target-text", "fire", *QUICK, *options)
    (entry,) = json.loads(out)["results"]
    assert code == 0
    assert entry["similarities"][0]["similarity"] == entry["similarities"][0]["unguided"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
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
