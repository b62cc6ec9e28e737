"""Classification of files, in Python and by the command."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap import AutoTranslator, ClapEncoder, ClipEncoder
from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import SpaceMismatchError
from clip2clap.search.classify import FileClassifier
from clip2clap.search.labels import read_labels, read_vocabulary
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

RATE = 16_000


@pytest.fixture(scope="module")
def encoders() -> dict:
    return {
        "clip": ClipEncoder.from_pretrained("demo"),
        "clap": ClapEncoder.from_pretrained("demo"),
    }


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """An image and audio that is silent but for noise between 1 and 2 s."""
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "red.png")
    waveform = np.zeros(RATE * 5 // 2, np.float32)
    waveform[RATE + 4000 : 2 * RATE - 4000] = np.random.default_rng(0).uniform(-0.5, 0.5, 8000)
    soundfile.write(tmp_path / "noise.wav", waveform, RATE)
    return [tmp_path / "red.png", tmp_path / "noise.wav"]


def test_files_are_named_by_their_own_encoder_in_the_order_given(encoders, files):
    classifier = FileClassifier(read_labels("demo"), **encoders)
    found = list(classifier([*files, *files], k=None))
    assert [file.source for file in found] == [str(file) for file in [*files, *files]]
    for file, embeds, encoder in zip(
        found,
        (encoders["clip"].encode_image(files[:1]), encoders["clap"].encode_audio(files[1:])),
        ("image", "audio"),
        strict=False,
    ):
        expected = classifier._classifiers[encoder].nearest(embeds)[0]
        assert [label for label, _ in file.segments[0].labels] == [label for label, _ in expected]


def test_windows_cover_the_audio_and_silent_ones_have_no_labels(encoders, files):
    (file,) = FileClassifier(["rain", "dog"], clap=encoders["clap"])(files[1:], window_s=1.0)
    assert [(s.start_s, s.end_s) for s in file.segments] == [(0, 1), (1, 2), (2, 2.5)]
    assert [bool(segment.labels) for segment in file.segments] == [False, True, False]


def test_silent_audio_has_no_labels_as_a_whole_either(encoders, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    (file,) = FileClassifier(["rain", "dog"], clap=encoders["clap"])([tmp_path / "silence.wav"])
    assert file.reason is None
    assert [segment.labels for segment in file.segments] == [[]]


@pytest.mark.parametrize("window_s", [0, 1e-9, float("nan"), "2"])
def test_a_window_without_samples_is_refused(encoders, files, window_s):
    classifier = FileClassifier(["rain", "dog"], clap=encoders["clap"])
    with pytest.raises(UserError, match=r"window_s to be 0\.05 s or longer"):
        list(classifier(files[1:], window_s=window_s))


def test_an_image_at_a_private_address_is_read_only_if_the_command_named_it(
    run, serve, encoders, files
):
    class Images(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(files[0].read_bytes())

    address = f"{serve(Images)}/red.png"
    (file,) = FileClassifier(["rain", "dog"], clip=encoders["clip"])([address])
    assert "allow_private" in str(file.reason)
    assert run("classify", address, "--labels", "rain,dog")[0] == 0


def test_a_broken_file_costs_one_file(encoders, files, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    classifier = FileClassifier(["rain", "dog"], clap=encoders["clap"])
    found = list(classifier([files[1], broken, files[0], files[1]]))
    assert [file.reason is None for file in found] == [True, False, False, True]
    assert "broken.wav" in str(found[1].reason)
    assert "no encoder" in str(found[2].reason)


def test_a_translator_names_images_by_what_they_would_sound_like(encoders, files):
    translator = AutoTranslator.from_pretrained("demo")
    classifier = FileClassifier(["rain", "dog"], translator=translator, **encoders)
    embeds = translator(encoders["clip"].encode_image(files[:1]))
    expected = classifier._classifiers["audio"].nearest(embeds)[0]
    (image, _) = classifier(files)
    assert [label for label, _ in image.segments[0].labels] == [label for label, _ in expected]
    assert image.segments[0].labels[0][1] == pytest.approx(expected[0][1], abs=1e-5)
    spaces = Provenance(source_space=encoders["clip"].space("image").in_modality("text"))
    foreign = MLPTranslator(provenance=replace(spaces, target_space=spaces.source_space))
    with pytest.raises(SpaceMismatchError):
        FileClassifier(["rain", "dog"], translator=foreign, **encoders)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog, rain", ["dog", "rain"]),
        ("dog,", "not blank"),
        ("a,a", "'a' twice"),
        ("a file.txt", "separated by commas"),
    ],
)
def test_labels_are_read_as_given(text, expected):
    if isinstance(expected, list):
        assert read_labels(text) == expected
    else:
        with pytest.raises(UserError, match=expected):
            read_labels(text)


def test_label_files_and_sets(tmp_path, monkeypatch):
    (tmp_path / "labels.txt").write_text("dog\n\nrain\ndog\n", encoding="utf-8-sig")
    assert read_labels(tmp_path / "labels.txt") == ["dog", "rain"]
    assert len(read_labels("esc50")) == len(set(read_labels("esc50"))) == 50
    assert len(read_labels("us8k")) == len(set(read_labels("us8k"))) == 10
    assert len(read_labels("demo")) == 23
    assert len(set(read_labels("demo-audio"))) == 30
    assert read_labels("demo-audio")[:23] == read_labels("demo")
    assert len(read_labels("audioset")) == len(set(read_labels("audioset"))) == 527
    assert len(read_labels("fsd50k")) == len(set(read_labels("fsd50k"))) == 200
    assert len(set(read_labels("imagehear"))) == 30
    (tmp_path / "esc50").write_text("dog\nrain\n")
    monkeypatch.chdir(tmp_path)
    assert read_labels(Path("esc50")) == ["dog", "rain"]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="no labels"):
        read_labels(tmp_path / "empty.txt")


def test_synonyms_follow_their_label_in_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("dog | bark| woof |\n|\nÖl\n", encoding="utf-8")
    assert read_vocabulary(tmp_path / "words.txt") == {"dog": ["bark", "woof"], "Öl": ["Öl"]}
    assert read_vocabulary("audioset")["Frying (food)"] == ["frying food"]


def test_the_command_prints_lines_csv_json_and_a_timeline(run, files, tmp_path):
    code, out, _ = run("classify", *files, "--labels", "dog,rain,sea", "--top-k", 2)
    assert code == 0
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(file) for file in files]
    code, out, _ = run("classify", *files, "--labels", "dog,rain,sea", "--csv", "--window-s", 1)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["file"], row["start_s"], row["rank"]) for row in rows] == [
        *((str(files[0]), "", rank) for rank in "123"),
        *((str(files[1]), "1.0", rank) for rank in "123"),
    ]
    assert sum(float(row["probability"]) for row in rows[:3]) == pytest.approx(1, abs=1e-3)
    figure = tmp_path / "timeline.png"
    code, out, _ = run("classify", files[1], "--labels", "esc50", "--timeline", figure, "--json")
    assert code == 0
    (entry,) = json.loads(out)["results"]
    assert [segment["start_s"] for segment in entry["segments"]] == [0, 2]
    assert len(entry["segments"][0]["labels"]) == 5
    assert Image.open(figure).format == "PNG"


def test_subfolders_are_searched_if_asked_for(run, files, tmp_path):
    inner = tmp_path / "album" / "more"
    inner.mkdir(parents=True)
    shutil.copy(files[0], inner)
    code, _, error = run("classify", tmp_path / "album")
    assert code == 2
    assert "its subfolders are not searched" in error
    code, out, _ = run("classify", tmp_path / "album", "--recursive")
    assert code == 0
    assert out.startswith(f"{inner / files[0].name}: ")


def test_a_file_of_labels_is_continued_with_what_is_new_changed_or_was_unreadable(
    run, files, tmp_path, monkeypatch
):
    classified: list[str] = []
    call = FileClassifier.__call__

    def recorded(self: FileClassifier, sources: list[str], **options: object) -> object:
        classified.extend(Path(source).name for source in sources)
        return call(self, sources, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(FileClassifier, "__call__", recorded)
    labels, broken = tmp_path / "labels.jsonl", tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    command = ("classify", *files, broken, "--labels", "dog,rain,sea", "-o", labels)
    assert run(*command)[0] == 1
    # As a killed run leaves it.
    labels.write_bytes(labels.read_bytes() + b'{"input": "ha')
    classified.clear()
    assert run(*command)[0] == 1
    assert classified == ["broken.wav"]
    soundfile.write(broken, soundfile.read(files[1])[0], RATE)
    Image.new("RGB", (64, 64), (0, 0, 250)).save(files[0])
    classified.clear()
    assert run(*command)[0] == 0
    assert sorted(classified) == ["broken.wav", "red.png"]
    head, *lines = map(json.loads, labels.read_text().splitlines())
    assert head["settings"]["labels"] == {"dog": ["dog"], "rain": ["rain"], "sea": ["sea"]}
    assert sorted(line["input"] for line in lines) == sorted(map(str, [*files, broken]))
    code, out, _ = run("classify", files[0], "--labels", "dog,rain,sea", "--json")
    (alone,) = json.loads(out)["results"]
    assert (
        next(line["segments"] for line in lines if line["input"] == str(files[0]))
        == (alone["segments"])
    )
    code, _, error = run(*command, "--top-k", 2)
    assert code == 2
    assert "--output: " in error
    assert "top_k was 5 and is now 2" in error
    assert "was not written by" in run("classify", files[0], "-o", files[1])[2]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "Öl\r\ndog\r\n".encode("utf-16"), ["Öl", "dog"]),
        ("a.txt", "dog\nÖl\n".encode("utf-16-le"), ["dog", "Öl"]),
        ("a.txt", "dog\nÖl\n".encode("latin-1"), "is not valid UTF-8: 'd?.*Save it as UTF-8"),
        ("a.json", b'["dog", "car, horn"]', ["dog", "car, horn"]),
        ("a.json", b'[{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]', ["dog", "cat"]),
        ("a.json", b'{"0": ["n1", "dog"]}', "has the columns 0: expected labels in display_name"),
        ("a.json", b"[1, 2]", "expected labels|holds no records"),
        (
            "a.csv",
            b'index,mid,display_name\r\n0,/m/1,Speech\r\n1,/m/2,"Male speech, man"\r\n',
            ["Speech", "Male speech, man"],
        ),
        ("a.csv", b"Label,name\n0,dog\n1,cat\n", ["dog", "cat"]),
        ("a.csv", b"label\ndog\n\ncat\n", ["dog", "cat"]),
        ("a.csv", b"dog\ncat, wild\n", ["dog", "cat, wild"]),
        ("a.csv", b"dog|bark\ncat\n", ["dog", "cat"]),
        ("a.csv", b"file,category\na.wav,dog\n", "has the columns file, category: expected labels"),
        ("a.csv", b"label,x\ndog,1\na,b,c\n", "has a damaged row: expected 2 cells"),
    ],
)
def test_files_of_labels_are_lines_lists_and_tables(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert read_labels(tmp_path / name) == expected
    else:
        with pytest.raises(UserError, match=expected):
            read_labels(tmp_path / name)


def test_a_killed_run_goes_on_and_names_nothing_twice(
    run, files, tmp_path, start_fork: Callable[..., int], monkeypatch
):
    from clip2clap.search.label_file import LabelFile

    for number in range(6):
        Image.new("RGB", (64, 64), (40 * number, 0, 0)).save(tmp_path / f"{number}.png")
    sources = [tmp_path / f"{number}.png" for number in range(6)]
    labels = tmp_path / "labels.jsonl"
    command = ["classify", *sources, "--labels", "dog,rain", "-o", labels, "--batch-size", 2]
    append = LabelFile.append

    def die(self: LabelFile, *arguments: object) -> None:
        append(self, *arguments)  # pyright: ignore[reportArgumentType]
        if len(self) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(LabelFile, "append", die)
        assert os.WIFSIGNALED(os.waitpid(start_fork(run, *command), 0)[1])
    assert run(*command)[0] == 0
    _, *lines = map(json.loads, labels.read_text().splitlines())
    assert [line["input"] for line in lines] == list(map(str, sources))


def test_long_audio_is_classified_with_a_few_windows_in_memory(encoders, files, monkeypatch):
    from clip2clap.search import classify

    produced, taken, most = 0, 0, 0
    noise = np.random.default_rng(0).normal(0, 0.1, RATE // 10).astype(np.float32)

    def read(*_: object) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal produced, most
        for number in range(60):
            produced += 1
            most = max(most, produced - taken)
            yield number * len(noise), noise

    encode = encoders["clap"].encode_preprocessed

    def counted(modality: str, inputs: list, **options: object) -> object:
        nonlocal taken
        taken += len(inputs)
        return encode(modality, inputs, **options)

    monkeypatch.setattr(classify, "_windows", read)
    monkeypatch.setattr(encoders["clap"], "encode_preprocessed", counted)
    classifier = FileClassifier(["rain", "dog"], clap=encoders["clap"])
    (file,) = classifier(files[1:], window_s=0.1, batch_size=4)
    assert len(file.segments) == 60
    assert most <= 4 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["red.png", "--csv", "-o", "x.jsonl"], "--csv: it cannot be combined with --output"),
        (["red.png", "-o", "."], "--output: . is a folder"),
        (["nope.jpg"], "nope.jpg does not exist"),
        (["red.png", "--labels", "nope.txt"], "--labels: expected labels separated"),
        (["red.png", "--labels", "a,a"], "--labels: labels has 'a' twice"),
        (["red.png", "--labels", "a,b", "--template", "sound"], "--template: expected texts"),
        (["red.png", "--temperature", "0"], "--temperature: expected above 0, got 0"),
        (["red.png", "--timeline", "t.png"], "--timeline: red.png is no audio"),
        (["noise.wav", "--timeline", "t.jpg"], "--timeline: expected a name in .png"),
        (["red.png", "noise.wav", "--timeline", "t.png"], "--timeline: it is of one audio file"),
        (["red.png", "--csv", "--json"], "--csv: it cannot be combined with --json"),
        (["red.png", "--clip", "clip-vit-base-patch23"], "Did you mean"),
    ],
)
def test_a_mistake_is_one_line(run, files, monkeypatch, arguments, message):
    monkeypatch.chdir(files[0].parent)
    code, _, error = run("classify", *arguments)
    assert code == 2
    assert message in error.replace("\n", " ")
    assert len(error.strip().splitlines()) == 1


def test_a_mistake_is_answered_without_torch(tmp_path):
    code = (
        "import sys; from clip2clap.cli.app import main\n"
        f"try: main(['classify', {str(tmp_path / 'nope.jpg')!r}])\n"
        "except SystemExit as end: sys.exit(end.code if 'torch' not in sys.modules else 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2
