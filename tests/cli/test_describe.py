"""`--describe` of audio-to-image and image-to-audio."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.media.audio import read_tags
from clip2clap.media.images import read_description

QUICK = ("--num-inference-steps", 2, "--captioner", "demo-clap")


@pytest.fixture
def noises(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", generator.uniform(-0.5, 0.5, 16_000), 16_000)
    return [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_the_prompt_is_the_caption_and_the_keywords_of_the_verbs(
    run, noises, text_to_image_folder, tmp_path
):
    arguments = [*QUICK, "--text-model", text_to_image_folder, "-o", tmp_path / "out", "--json"]
    code, out, _ = run("audio-to-image", *noises, "--describe", *arguments)
    assert code == 0
    results = json.loads(out)["results"]
    captions = json.loads(run("caption", *noises, "--json")[1])["results"]
    keywords = json.loads(run("keywords", *noises, "--top", 3, "--json")[1])["results"]
    for entry, captioned, ranked in zip(results, captions, keywords, strict=True):
        words = [each["keyword"] for each in ranked["segments"][0]["keywords"]]
        assert entry["prompt"] == ", ".join([captioned["captions"][0], *words])
        (image,) = entry["images"]
        assert Image.open(image["output"]).size == (16, 16)
        assert read_description(image["output"]) == entry["prompt"]


def test_the_template_decides_what_is_said(run, noises, tmp_path):
    template = ["--prompt-template", "{keywords}, Ölgemälde", "--prompt-keywords", 1]
    arguments = [*template, "--vocabulary", "dog,rain", "-o", tmp_path / "out", "--json"]
    code, out, _ = run(
        "audio-to-image", noises[0], "--describe", *arguments, "--num-inference-steps", 2
    )
    (entry,) = json.loads(out)["results"]
    assert code == 0
    assert entry["prompt"] in ("dog, Ölgemälde", "rain, Ölgemälde")
    assert read_description(entry["images"][0]["output"]) == entry["prompt"]
    arguments = ["-o", tmp_path / "plain", "--json", "--num-inference-steps", 2]
    _, out, _ = run("audio-to-image", noises[0], *arguments)
    (plain,) = json.loads(out)["results"]
    assert "prompt" not in plain
    assert read_description(plain["images"][0]["output"]) is None


def test_a_described_image_sounds_as_its_caption_does(run, tmp_path):
    for name, color in (("red", (200, 30, 30)), ("blue", (20, 60, 220))):
        Image.new("RGB", (48, 48), color).save(tmp_path / f"{name}.png")
    images = [tmp_path / "blue.png", tmp_path / "red.png"]
    steps = ["--num-inference-steps", 1, "--num-candidates", 1, "--duration-s", 1, "--json"]
    arguments = ["image-to-audio", *images, "--describe", *steps, "-o", tmp_path / "out"]
    code, out, _ = run(*arguments)
    assert code == 0
    results = json.loads(out)["results"]
    captions = json.loads(run("caption", *images, "--json")[1])["results"]
    assert [each["prompt"] for each in results] == [each["captions"][0] for each in captions]
    words = [part for each in results for part in ("--prompt", each["prompt"])]
    run("image-to-audio", *words, *steps, "-o", tmp_path / "words")
    lines = (tmp_path / "words" / "manifest.jsonl").read_text().splitlines()
    spoken = [json.loads(line)["outputs"][0]["path"] for line in lines]
    for entry, path in zip(results, spoken, strict=True):
        made = soundfile.read(entry["output"])[0]
        assert np.array_equal(made, soundfile.read(tmp_path / "words" / path)[0])
        tags = read_tags(entry["output"])
        assert (tags["input"], tags["prompt"]) == (entry["input"], entry["prompt"])
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.wav")}
    assert json.loads(run(*arguments)[1])["results"] == results
    assert files == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.wav")
    }
    plain = ["image-to-audio", *images, *steps, "-o", tmp_path / "out"]
    assert "prompt" not in json.loads(run(*plain)[1])["results"][0]
    code, out, _ = run("repeat", results[0]["output"], "-o", tmp_path / "again.wav", "--json")
    assert code == 0
    again = soundfile.read(tmp_path / "again.wav")[0]
    assert np.array_equal(again, soundfile.read(results[0]["output"])[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompt-template", "{caption}"], "--prompt-template: goes with --describe"),
        (["--text-model", "nobody/nothing"], "--text-model: goes with --describe"),
        (["--describe", "--prompt", "x"], "--prompt: --describe makes the prompt"),
        (["--describe", "--prompt-template", "{label}"], "--prompt-template: expected a template"),
        (["--describe", "--route", "mixed"], "--route: the routes are mixed by a --text-model"),
        (["--describe", "--film"], "--describe: a film follows the audio"),
        (["--describe", "--text-model", "nowhere"], "no text model preset or folder 'nowhere'"),
        (["--describe", "--vocabulary", ","], "--vocabulary"),
        (["--describe", "--captioner", "nowhere"], "no captioner preset or folder 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line(run, noises, arguments, message):
    code, _, error = run("audio-to-image", noises[0], *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
