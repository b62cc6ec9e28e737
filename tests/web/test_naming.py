"""Names by speech, and names that are spoken."""

import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile

from clip2clap.core.errors import InterruptedCallError, UserError
from clip2clap.media.audio import SilentAudioError, load_audio
from clip2clap.search.spoken import rank_images
from clip2clap.web import naming
from clip2clap.web.naming import NamedFile, choose_images, speak_answer
from clip2clap.web.recipes import choosing_recipes
from clip2clap.web.runs import Run


@pytest.fixture
def images(library):
    return [(f"{name}.jpg", library / f"a {name}.jpg") for name in ("rocket", "chelsea", "coffee")]


def test_speech_ranks_images_as_the_library_does(models, images, recording):
    said = ("said.wav", recording)
    found = choose_images(images, said, models, Run(), longest_s=5)
    embeds = models.clip.encode_image([path for _, path in images])
    shares = rank_images(models.speech.encode_audio([None]), embeds, scale=models.clip.logit_scale)
    assert found[0].name == "chelsea.jpg"
    assert {each.name: each.labels[0][1] for each in found} == pytest.approx(
        dict(zip((name for name, _ in images), shares[0].tolist(), strict=True)), abs=1e-5
    )


def test_files_that_are_no_images_come_last_with_the_reason(models, images, recording):
    files = [("bark.wav", recording), *images]
    found = choose_images(files, ("said.wav", recording), models, Run(), longest_s=5)
    assert [each.reason is None for each in found] == [True, True, True, False]
    assert "bark.wav is not an image" in str(found[-1].reason)
    assert str(recording.parent) not in str(found[-1].reason)
    (only,) = choose_images(files[:1], ("said.wav", recording), models, Run(), longest_s=5)
    assert only.reason is not None


def test_speech_that_is_silent_or_too_long_is_refused(models, images, recording, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    with pytest.raises(SilentAudioError, match=r"said\.wav is silent"):
        choose_images(images, ("said.wav", tmp_path / "silent.wav"), models, Run(), longest_s=5)
    with pytest.raises(UserError, match=r"said\.wav is longer than 0\.5 s"):
        choose_images(images, ("said.wav", recording), models, Run(), longest_s=0.5)
    run = Run()
    run.cancel()
    with pytest.raises(InterruptedCallError):
        choose_images(images, ("said.wav", recording), models, run, longest_s=5)


def test_the_answer_says_what_each_file_was_named_by(monkeypatch, tmp_path):
    said = []

    def speak(text):
        said.append(text)
        return np.full(1600, 0.1, np.float32), 16_000

    monkeypatch.setattr(naming, "speak", speak)
    cat = NamedFile("a.jpg", [("cat", 0.9), ("dog", 0.1)])
    files = [cat, NamedFile("b.wav", [("rain", 1.0)]), NamedFile("c.png", [], "no image")]
    path = speak_answer(tmp_path, files)
    assert said == ["A photo of a cat. The sound of a rain."]
    assert load_audio(path)[1] == 16_000
    assert speak_answer(tmp_path, [files[-1]]) is None
    speak_answer(tmp_path, [replace(cat, labels=[("x" * 10_000, 1.0)])])
    assert len(said[-1]) <= 400


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_labels_are_spoken_as_text_whatever_they_are(tmp_path):
    for label in ("-f /etc/passwd", "$(id)", "<speak>x</speak>", "[[h@l'oU]]", "\u2028"):
        path = speak_answer(tmp_path, [NamedFile("a.jpg", [(label, 1.0)])])
        waveform, rate = load_audio(path)
        assert 0.3 < len(waveform) / rate < 20


def test_the_command_that_chooses_by_speech_names_the_encoder():
    command, python = choosing_recipes(["a.jpg", "b.jpg"], "said.wav", {"speech_encoder": "mine/"})
    words = shlex.split(command)
    assert words[1:4] == ["classify", "a.jpg", "b.jpg"]
    assert words[words.index("--speech") + 1] == "said.wav"
    assert words[words.index("--speech-encoder") + 1] == "mine/"
    assert "SpeechEncoder.from_pretrained('mine/')" in python
