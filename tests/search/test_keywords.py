"""Keywords of files: calibrated scores, vocabularies, and the command."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.metrics.calibration import Calibration
from clip2clap.search import keywords as module
from clip2clap.search.classify import FileClassifier
from clip2clap.search.keywords import KeywordExtractor
from clip2clap.search.labels import read_vocabulary

RATE = 16_000
WORDS = ["dog", "rain", "Küste"]


@pytest.fixture(scope="module")
def clap() -> ClapEncoder:
    return ClapEncoder.from_pretrained("demo")


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return ClipEncoder.from_pretrained("demo")


@pytest.fixture
def noise(tmp_path):
    """Audio that is silent but for noise between 1 and 2 s."""
    waveform = np.zeros(RATE * 5 // 2, np.float32)
    waveform[RATE : 2 * RATE] = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    soundfile.write(tmp_path / "noise.wav", waveform, RATE)
    return tmp_path / "noise.wav"


def test_scores_are_the_calibrated_probabilities_in_their_order(clap, noise):
    extractor = KeywordExtractor("esc50", clap=clap)
    (plain,) = FileClassifier(read_vocabulary("esc50"), clap=clap)([noise], k=4)
    (found,) = extractor([noise], k=4)
    labels, scores = zip(*found.segments[0].labels, strict=True)
    assert labels == tuple(label for label, _ in plain.segments[0].labels)
    assert list(scores) == sorted(scores, reverse=True)
    calibration = module._find(clap.space("text"), "audio", "esc50")
    assert calibration is not None
    expected = calibration(np.array([value for _, value in plain.segments[0].labels]))
    assert scores == pytest.approx(expected, abs=1e-6)


def test_the_demo_encoders_are_calibrated_for_every_route(clap, clip):
    translator = AutoTranslator.from_pretrained("demo-back")
    for vocabulary in ("audioset", "fsd50k", "esc50", "demo"):
        own = {
            (each["fingerprint"], each["modality"]): each
            for each in module._calibrations()
            if each["vocabulary"] == vocabulary
        }
        routes = [(clap, "audio"), (clip, "audio")]
        # ESC-50's categories name few of the images.
        routes += [(clip, "image")] if vocabulary != "esc50" else []
        for encoder, modality in routes:
            entry = own[encoder.space("text").fingerprint, modality]
            assert entry["expected_calibration_error"] < 0.1
    extractor = KeywordExtractor("demo", clip=clip, clap=clap, translator=translator)
    assert extractor.is_calibrated("audio")
    assert extractor.is_calibrated("image")


def test_words_of_ones_own_keep_the_models_probabilities(clap, noise):
    extractor = KeywordExtractor(WORDS, clap=clap)
    assert not extractor.is_calibrated("audio")
    (plain,) = FileClassifier(WORDS, clap=clap)([noise])
    (found,) = extractor([noise])
    assert found.segments == plain.segments


def test_another_template_or_encoder_is_not_calibrated(clap, musicldm_folder):
    assert not KeywordExtractor("demo", clap=clap, templates="{}").is_calibrated("audio")
    other = ClapEncoder.from_pretrained(musicldm_folder)
    assert not KeywordExtractor("demo", clap=other).is_calibrated("audio")


@pytest.mark.parametrize("vocabulary", [[], ["dog", "dog"], ["dog", " "], "nope"])
def test_a_senseless_vocabulary_is_refused(clap, vocabulary):
    with pytest.raises(UserError):
        KeywordExtractor(vocabulary, clap=clap)


def test_an_isotonic_calibration_needs_a_value_for_each_knot():
    with pytest.raises(UserError, match="for each knot"):
        Calibration("isotonic", values=(0.1,), knots=(0.0, 1.0))


def test_the_command_prints_keywords_and_draws_a_time_line(run, noise, tmp_path):
    Image.new("RGB", (32, 32), (10, 200, 30)).save(tmp_path / "green.png")
    code, out, error = run("keywords", noise, tmp_path / "green.png", "--top", 3, "--json")
    document = json.loads(out)
    assert (code, error) == (0, "")
    assert document["settings"]["calibrated"] == {"audio": True, "image": True}
    assert [len(each["segments"][0]["keywords"]) for each in document["results"]] == [3, 3]
    figure = tmp_path / "line.png"
    code, out, _ = run("keywords", noise, "--timeline", figure, "--window-s", 1, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert {row["start_s"] for row in rows} == {"1.0"}
    assert len(rows) == 10
    assert Image.open(figure).format == "PNG"


def test_uncalibrated_scores_are_announced(run, noise):
    code, out, error = run("keywords", noise, "--vocabulary", ",".join(WORDS), "--top", 2)
    assert code == 0
    assert "softmax" in error
    assert len(out.split(": ")[1].split(", ")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocabulary", "nope.txt"], "--vocabulary: expected labels separated"),
        (["--vocabulary", "a,a"], "--vocabulary: labels has 'a' twice"),
        (["--vocabulary", "a,,b"], "--vocabulary: expected a list of texts"),
        (["--top", "0"], "--top: expected at least 1, got 0"),
        (["--csv", "--json"], "--csv: it cannot be combined with --json"),
    ],
)
def test_a_mistake_is_one_line(run, noise, arguments, message):
    code, _, error = run("keywords", noise, *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1
