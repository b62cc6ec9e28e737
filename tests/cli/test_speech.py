"""Speech in verbs: classify, audio-to-image, paint and search."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.mixing import mix_embeds
from clip2clap.search import Index

Run = Callable[..., tuple[int, str, str]]
RATE = 16_000


def write_tone(path: Path, hertz: float, seconds: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE)
    return path


@pytest.fixture
def say(tmp_path: Path) -> Path:
    return write_tone(tmp_path / "say.wav", 440)


@pytest.fixture
def models(reading_clip_folder: Path, speech_folder: Path) -> tuple[str, ...]:
    folders = (str(reading_clip_folder), str(speech_folder))
    return ("--clip", folders[0], "--speech-encoder", folders[1], "--device", "cpu")


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> SpeechEncoder:
    return SpeechEncoder.from_pretrained(speech_folder)


@pytest.fixture(scope="module")
def clip(reading_clip_folder: Path) -> ClipEncoder:
    return ClipEncoder.from_pretrained(reading_clip_folder)


def results_of(run: Run, *arguments: Any, status: int = 0) -> list[dict[str, Any]]:
    found, out, _ = run(*arguments, "--json")
    assert found == status
    return json.loads(out)["results"]


def test_the_image_that_is_meant_is_the_most_likely(run, photos, say, models, speech, clip):
    images = sorted(str(path) for path in photos.iterdir())
    (found,) = results_of(run, "classify", *images, "--speech", say, *models)
    logits = clip.logit_scale * speech.encode_audio([say]) @ clip.encode_image(images).T
    expected = dict(zip(images, logits.softmax(-1)[0].tolist(), strict=True))
    shares = {each["image"]: each["probability"] for each in found["images"]}
    assert shares == pytest.approx(expected, abs=1e-3)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_silence_is_skipped_and_a_click_is_not(run, photos, tmp_path, models):
    silent, click = tmp_path / "silent.wav", tmp_path / "click.wav"
    soundfile.write(silent, np.zeros(RATE), RATE)
    soundfile.write(click, np.clip(np.random.default_rng(0).normal(0, 2, 800), -1, 1), RATE)
    spoken = ("--speech", silent, "--speech", click)
    (found,) = results_of(run, "classify", photos / "dog.jpg", *spoken, *models, status=1)
    assert found["speech"] == str(click)
    status, _, said = run("classify", photos / "dog.jpg", "--speech", silent, *models)
    assert status == 1
    assert "silent.wav is silent" in said


def test_an_image_gets_the_nearest_spoken_name_of_several_utterances(
    run, photos, tmp_path, models, speech, clip
):
    folder = tmp_path / "names"
    utterances = {
        "wet dog": [write_tone(folder / "wet_dog_1.wav", 300), folder / "wet_dog_2.wav"],
        "sea": [write_tone(folder / "sea" / "a.wav", 900), folder / "sea" / "b.wav"],
    }
    write_tone(folder / "wet_dog_2.wav", 2000)
    write_tone(folder / "sea" / "b.wav", 4000, 0.2)
    image = photos / "cat.png"
    (found,) = results_of(run, "classify", image, "--spoken-labels", folder, *models)
    (embed,) = clip.encode_image([image])
    nearest = {
        name: float((speech.encode_audio(files) @ embed).max())
        for name, files in utterances.items()
    }
    logits = clip.logit_scale * torch.tensor(list(nearest.values()))
    expected = dict(zip(nearest, logits.softmax(0).tolist(), strict=True))
    labels = {each["label"]: each["probability"] for each in found["segments"][0]["labels"]}
    assert labels == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("intercept", "fits"), [(-9, False), (9, True)])
def test_a_calibrated_encoder_says_if_no_image_and_no_spoken_name_fits(
    run, photos, say, tmp_path, models, speech_folder, intercept, fits
):
    folder = tmp_path / "speech"
    shutil.copytree(speech_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config["calibration"] = {"method": "logistic", "values": [1.0, intercept], "knots": []}
    (folder / "config.json").write_text(json.dumps(config))
    models = (*models[:2], "--speech-encoder", folder, "--device", "cpu")
    (tmp_path / "names").mkdir()
    shutil.copy(say, tmp_path / "names" / "dog.wav")
    for spoken, what in (("--speech", "image"), ("--spoken-labels", "spoken name")):
        source = say if what == "image" else tmp_path / "names"
        status, _, said = run("classify", photos / "dog.jpg", spoken, source, *models)
        assert status == 0
        assert (f"no {what} fits well" in said) is not fits
        (found,) = results_of(run, "classify", photos / "dog.jpg", spoken, source, *models)
        value = found["fits"] if what == "image" else found["segments"][0]["fits"]
        assert (value >= 0.25) is fits


def test_a_broken_utterance_costs_itself_and_is_named(run, photos, tmp_path, models):
    folder = tmp_path / "names"
    write_tone(folder / "dog_1.wav", 300)
    (folder / "dog_2.wav").write_bytes(b"no audio")
    soundfile.write(folder / "sea.wav", np.zeros(RATE), RATE)
    names = ("--spoken-labels", folder)
    status, said, skipped = run("classify", photos / "cat.png", *names, *models)
    assert status == 1
    assert "dog 1.00" in said
    assert "sea.wav is silent" in skipped
    assert "dog_2.wav" in skipped
    (folder / "dog_1.wav").unlink()
    status, _, said = run("classify", photos / "cat.png", *names, *models)
    assert status == 2
    assert "No spoken name can be read" in said


def test_the_answer_is_spoken(run, photos, tmp_path, models, monkeypatch):
    pytest.importorskip("clip2clap.media.synthesis")
    monkeypatch.setattr("clip2clap.media.synthesis.find_synthesizer", lambda: "espeak-ng")
    said = []

    def speak(text: str, **_: Any) -> tuple[np.ndarray, int]:
        said.append(text)
        return 0.1 * np.ones(RATE, np.float32), RATE

    monkeypatch.setattr("clip2clap.media.synthesis.speak", speak)
    monkeypatch.chdir(tmp_path)
    write_tone(tmp_path / "names" / "dog.wav", 500)
    names = ("--spoken-labels", tmp_path / "names")
    status, out, _ = run("classify", photos / "dog.jpg", *names, "--speak", *models)
    assert status == 0
    assert said == ["A photo of a dog."]
    assert "dog-spoken.wav" in out
    assert (tmp_path / "dog-spoken.wav").is_file()


def test_without_a_synthesizer_the_option_says_which_package_brings_one(
    run, photos, tmp_path, models, monkeypatch
):
    monkeypatch.setattr("shutil.which", lambda _: None)
    write_tone(tmp_path / "names" / "dog.wav", 500)
    for names in (
        ("--spoken-labels", tmp_path / "names", "--speak"),
        ("--spoken-labels", "objectnet"),
    ):
        status, _, said = run("classify", photos / "dog.jpg", *names, *models)
        assert status == 2
        assert "apt install espeak-ng" in said


def test_another_clips_speech_encoder_is_refused(
    run, photos, say, speech_folder, foreign_reading_clip_folder
):
    models = ("--clip", foreign_reading_clip_folder, "--speech-encoder", speech_folder)
    status, _, said = run("classify", photos / "dog.jpg", "--speech", say, *models)
    assert status == 2
    assert "Two encoders are two spaces, even at the same size" in said


def test_options_of_speech_that_contradict_are_named(run, photos, say, tmp_path, models):
    image = photos / "dog.jpg"
    for arguments, message in (
        (("--speech", tmp_path / "absent.wav"), "absent.wav does not exist"),
        (("--speech", say, "--spoken-labels", tmp_path), "cannot be combined with --speech"),
        (("--spoken-labels", tmp_path / "absent"), "neither a folder of spoken names nor"),
        (("--speak",), "Add --spoken-labels"),
    ):
        status, _, said = run("classify", image, *arguments, *models)
        assert status == 2
        assert message in said
    status, _, said = run("classify", say, "--speech", say, *models)
    assert status == 2
    assert "it is about images" in said


def test_an_image_is_generated_from_speech(
    run, say, tmp_path, painter_folder, speech_folder, speech
):
    few = ("--decoder", painter_folder, "--speech-encoder", speech_folder, "--device", "cpu")
    out = tmp_path / "image.png"
    status, _, said = run("audio-to-image", "--speech", say, "-o", out, *few, "--dtype", "fp32")
    assert status == 0, said
    pipeline = AudioToImagePipeline.from_pretrained(painter_folder)
    expected = pipeline(
        image_embeds=speech.encode_audio([say]), generator=[torch.Generator().manual_seed(0)]
    )
    difference = np.asarray(Image.open(out)).astype(int) - np.asarray(expected.images[0])
    assert np.abs(difference).max() <= 2


def test_speech_and_audio_are_mixed(run, say, tmp_path, painter_folder, speech_folder, speech):
    bark = write_tone(tmp_path / "bark.wav", 1500)
    few = ("--decoder", painter_folder, "--speech-encoder", speech_folder, "--device", "cpu")
    mix = ("--mix", f"{bark}:0.7", "--speech", f"{say}:0.3")
    out = tmp_path / "image.png"
    status, _, said = run("audio-to-image", *mix, "-o", out, *few, "--dtype", "fp32")
    assert status == 0, said
    pipeline = AudioToImagePipeline.from_pretrained(painter_folder)
    parts = [pipeline.translate(pipeline.encode_audio([bark])), speech.encode_audio([say])]
    embeds = mix_embeds([part[0] for part in parts], [0.7, 0.3])[None]
    expected = pipeline(image_embeds=embeds, generator=[torch.Generator().manual_seed(0)])
    difference = np.asarray(Image.open(out)).astype(int) - np.asarray(expected.images[0])
    assert np.abs(difference).max() <= 2
    status, _, said = run("audio-to-image", bark, "--speech", say, *few)
    assert status == 2
    assert "give audio, or --speech, or --mix" in said


def test_several_spoken_prompts_make_a_film_with_their_sound(
    run, say, tmp_path, painter_folder, speech_folder
):
    other = write_tone(tmp_path / "other.wav", 2500, 0.75)
    few = ("--decoder", painter_folder, "--speech-encoder", speech_folder, "--device", "cpu")
    film = ("--film", "--fps", 4, "--crossfade", 0, "--film-size", "32x32")
    spoken = ("--speech", say, "--speech", other)
    out = tmp_path / "film.mp4"
    (found,) = results_of(run, "audio-to-image", *spoken, "-o", out, *film, *few)
    assert found["input"] == [str(say), str(other)]
    assert found["frames"] == 5
    assert found["seconds"] == pytest.approx(1.25, abs=0.01)
    with av.open(str(out)) as container:
        assert {stream.type for stream in container.streams} == {"video", "audio"}


def test_speech_and_sound_are_targets_of_a_painting(
    run, say, tmp_path, painter_folder, speech_folder, speech
):
    bark = write_tone(tmp_path / "bark.wav", 1500)
    few = ("--num-iterations", 10, "--cutouts", 2, "--width", 16, "--height", 16)
    models = ("--decoder", painter_folder, "--speech-encoder", speech_folder, "--device", "cpu")
    spoken = ("--speech", f"{say}:0.5", "--break-audio", 1)
    (found,) = results_of(run, "paint", bark, *spoken, "-o", tmp_path / "out", *few, *models)
    weights = {each["target"]: each["weight"] for each in found["similarities"]}
    assert weights == {str(bark): 1.0, str(say): 0.5}


def test_speech_finds_what_it_says(
    run, photos, say, tmp_path, reading_clip_folder, musicldm_folder, speech_folder, speech, clip
):
    encoders = ("--clip", reading_clip_folder, "--clap", musicldm_folder, "--device", "cpu")
    assert run("index", photos, "-o", tmp_path / "library", *encoders)[0] == 0
    models = ("--speech-encoder", speech_folder, "--device", "cpu", "--find", "image")
    found = results_of(run, "search", tmp_path / "library", "--speech", say, *models)
    (embed,) = speech.encode_audio([say])
    images = sorted(photos.iterdir())
    scores = dict(zip(map(str, images), (clip.encode_image(images) @ embed).tolist(), strict=True))
    assert {each["path"]: each["score"] for each in found} == pytest.approx(scores, abs=1e-2)
    index = Index(tmp_path / "library", speech_encoder=str(speech_folder))
    hits = index.search(f"speech:{say}", find="image")
    assert [hit.path for hit in hits] == [each["path"] for each in found]
    status, _, said = run("search", tmp_path / "library", *models)
    assert status == 2
    assert "give a file, words, or --speech FILE" in said
