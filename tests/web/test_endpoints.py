"""Endpoints for programs, by gradio_client and plain requests; the same by command and code."""

import ast
import json
import shlex
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.cli.app import main
from clip2clap.core.errors import InterruptedCallError
from clip2clap.media.audio import load_audio, read_tags
from clip2clap.media.images import load_image
from clip2clap.web.filming import FilmOrder, make_film
from clip2clap.web.making import AudioOrder, ImageOrder, PaintingOrder, make_painting
from clip2clap.web.recipes import (
    audio_recipes,
    describing_recipes,
    film_recipes,
    image_recipes,
    naming_recipes,
    painting_recipes,
)
from clip2clap.web.runs import Run

gradio_client = pytest.importorskip("gradio_client")
Client, handle_file = gradio_client.Client, gradio_client.handle_file
AppError = gradio_client.exceptions.AppError

STEP = 2 / 32768


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def run_here(monkeypatch, tmp_path):
    """Return a function that runs a recipe's command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(command):
        words = shlex.split(command)
        assert words[0] == "clip2clap"
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert ended.value.code == 0

    return run


def test_audio_of_an_image_is_that_of_the_command_and_of_the_python_code(
    client, photograph, run_here, tmp_path
):
    files, entry = client.predict(
        image=handle_file(photograph),
        seconds=1.0,
        variations=2,
        negative_prompt="rain",
        # Of this seed no two candidates are so similar that rounding could swap them.
        seed=1,
        steps=2,
        api_name="/image_to_audio",
    )
    assert entry["heard_as"][0]["label"] == "cat"
    served = [load_audio(file)[0] for file in files]
    assert [len(audio) for audio in served] == [16_000, 16_000]
    # Nothing of the server's folders is in what is sent.
    assert entry["input"] == "a-cat.jpg"
    assert read_tags(files[0])["input"] == "a-cat.jpg"
    (tmp_path / "a-cat.jpg").write_bytes(photograph.read_bytes())
    order = AudioOrder("a-cat.jpg", None, 1.0, 2, 4, "rain", seed=1, steps=2)
    command, python = audio_recipes(order, {})
    run_here(command)
    exec(compile(python, "python", "exec"), {})
    for number, audio in enumerate(served, 1):
        for again in (f"audio/a-cat-{number}.wav", f"audio-{number}.wav"):
            np.testing.assert_allclose(load_audio(again)[0], audio, atol=2 * STEP)


def test_images_of_audio_are_those_of_the_command_and_of_the_python_code(
    client, recording, run_here, tmp_path
):
    files, labels = client.predict(
        audio=handle_file(recording), count=2, seed=1, steps=2, api_name="/audio_to_image"
    )
    assert len(labels) == 3
    served = [np.asarray(load_image(file), float) for file in files]
    (tmp_path / "bark.wav").write_bytes(recording.read_bytes())
    command, python = image_recipes(ImageOrder("bark.wav", Path(), 2, seed=1, steps=2), {})
    run_here(command)
    exec(compile(python, "python", "exec"), {})
    made = [load_image(f"images/bark-{number}.png") for number in (1, 2)]
    for image, again in zip(served, made, strict=True):
        np.testing.assert_allclose(np.asarray(again, float), image, atol=2)
    # The code keeps the order in which they were made.
    unsorted = [np.asarray(load_image(f"image-{number}.png"), float) for number in (1, 2)]
    for image in served:
        assert min(np.abs(image - other).max() for other in unsorted) <= 2


@pytest.mark.parametrize("brisque", [0.0, 0.01])
def test_a_painting_is_that_of_the_command(models, recording, run_here, tmp_path, brisque):
    if brisque:
        pytest.importorskip("piq")
        pytest.importorskip("brisque")
    (tmp_path / "served").mkdir()
    order = PaintingOrder("bark.wav", recording, iterations=2, cutouts=2, brisque=brisque, seed=1)
    made = make_painting(models, tmp_path / "served", order, Run(), longest_s=5)
    (tmp_path / "bark.wav").write_bytes(recording.read_bytes())
    command, python = painting_recipes(order, {})
    run_here(command)
    served, again = (np.asarray(load_image(p), float) for p in (made["files"][0], "painting.png"))
    np.testing.assert_allclose(again, served, atol=2)
    exec(compile(python, "python", "exec"), {})
    assert load_image("painting.png").size == Image.open(made["files"][0]).size


def frames_of(path):
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def test_a_film_of_two_files_is_that_of_the_command_and_of_the_python_code(
    client, recording, run_here, tmp_path
):
    film = client.predict(
        audios=[handle_file(recording), handle_file(recording)],
        fps=2,
        crossfade=0.5,
        title="A bark",
        seed=1,
        steps=2,
        api_name="/film",
    )
    served = frames_of(film)
    # Two seconds of title, and one and a half of audio.
    assert len(served) == 7
    waveform, rate = load_audio(film)
    assert len(waveform) / rate == pytest.approx(3.5, abs=0.05)
    (tmp_path / "bark.wav").write_bytes(recording.read_bytes())
    names = ("bark.wav", "bark.wav")
    order = FilmOrder(names, (), fps=2, crossfade_s=0.5, title="A bark", seed=1, steps=2)
    command, python = film_recipes(order, {})
    run_here(command)
    np.testing.assert_allclose(frames_of("film.mp4"), served, atol=8)
    Path("film.mp4").unlink()
    exec(compile(python, "python", "exec"), {})
    np.testing.assert_allclose(frames_of("film.mp4"), served, atol=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audios": []}, "Upload 1 to 20 audio files"),
        ({"fps": 0}, "Expected fps to be from 1 to 24"),
        ({"crossfade": 60}, "Expected crossfade"),
        ({"title": "x" * 101}, "at most 100 characters"),
        ({"paint_on": 10**6}, "Expected paint_on"),
        ({"times": 6}, "longer than 5 s together"),
    ],
)
def test_films_that_cannot_be_are_refused_in_one_line(client, recording, arguments, message):
    audios = [handle_file(recording)] * arguments.pop("times", 1)
    with pytest.raises(AppError, match=message):
        client.predict(**{"audios": audios, **arguments}, api_name="/film")


def test_a_film_that_is_cancelled_leaves_no_file(models, recording, tmp_path):
    run, order = Run(), FilmOrder(("a.wav",), (recording,), fps=24, steps=1)
    watch = run.advance

    def cancel_midway(share, note):
        if 0 < share < 1:
            run.cancel()
        watch(share, note)

    run.advance = cancel_midway
    with pytest.raises(InterruptedCallError):
        make_film(models, tmp_path, order, run, longest_s=5)
    assert run.preview is not None
    assert list(tmp_path.iterdir()) == []


def test_recipes_name_models_that_are_not_the_demo_s():
    names = {"generator": "audioldm-s-full-v2", "translator": "my translator/"}
    command, python = audio_recipes(AudioOrder("a.jpg", None, 5.12), names)
    assert "--generator audioldm-s-full-v2 --translator 'my translator/'" in command
    assert "from_pretrained('audioldm-s-full-v2', translator='my translator/')" in python


def test_files_are_named_by_texts(client, photograph, recording):
    named = client.predict(
        files=[handle_file(photograph), handle_file(recording)],
        labels="cat, train\nsea",
        api_name="/classify",
    )
    assert [each["file"] for each in named] == ["a-cat.jpg", "bark.wav"]
    assert named[0]["labels"][0][0] == "cat"
    assert sum(share for _, share in named[1]["labels"]) == pytest.approx(1)


def test_labels_are_never_read_from_the_server_s_files(client, photograph, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password one\npassword two\n")
    named = client.predict(
        files=[handle_file(photograph)], labels=str(secret), api_name="/classify"
    )
    assert named[0]["labels"] == [[str(secret), 1.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "There is no image yet"),
        ({"seconds": 1000.0}, "Expected seconds to be from 0.1 to 3"),
        ({"seconds": "long"}, "Expected seconds"),
        ({"variations": 99}, "Expected variations"),
        ({"seed": -1}, "Expected seed"),
        ({"steps": 10**9}, "Expected steps"),
        ({"negative_prompt": "x" * 10_000}, "at most 500 characters"),
        ({"negative_prompt": ["x"]}, "Expected negative_prompt to be a text"),
        ({"address": "file:///etc/passwd"}, "http:// or https://"),
        ({"address": "http://127.0.0.1:1/x.jpg"}, "no public address"),
        ({"address": "http://[::ffff:10.0.0.1]/x.jpg"}, "no public address"),
        ({"address": "http://169.254.169.254/latest/meta-data"}, "no public address"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(client, photograph, arguments, message):
    if arguments and "address" not in arguments:
        arguments = {"image": handle_file(photograph), **arguments}
    with pytest.raises(AppError, match=message) as raised:
        client.predict(**arguments, api_name="/image_to_audio")
    assert "\n" not in str(raised.value)
    assert "clip2clap-serve" not in str(raised.value)


def test_plain_requests_do_what_the_client_does(server, photograph):
    with httpx.Client(base_url=server.url, timeout=60) as http:
        sent = http.post("/gradio_api/upload", files={"files": photograph.read_bytes()})
        image = {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}
        data = [image, None, 1.0, 1, None, 0, 1]
        call = http.post("/gradio_api/call/image_to_audio", json={"data": data})
        answer = http.get(f"/gradio_api/call/image_to_audio/{call.json()['event_id']}").text
        last = answer.strip().split("\n\n")[-1]
        assert last.startswith("event: complete"), answer
        files, entry = json.loads(last.split("data: ")[1])
        audio = http.get(f"/gradio_api/file={files[0]['path']}")
        assert len(load_audio(audio.content)[0]) == 16_000
        assert entry["status"] == "done"


def test_the_interface_is_described_by_openapi(server):
    paths = httpx.get(f"{server.url}/gradio_api/openapi.json").json()["paths"]
    described = json.dumps(paths)
    for name in ("image_to_audio", "audio_to_image", "classify"):
        assert name in described


def test_health_is_told(server):
    answer = httpx.get(f"{server.url}/healthz").json()
    assert answer["status"] == "ok"
    assert answer["waiting"] == 0


def test_metrics_count_what_ended_and_how(client, server, photograph):
    def value(name, **labels):
        text = httpx.get(f"{server.url}/metrics").text
        wanted = ",".join(f'{key}="{each}"' for key, each in sorted(labels.items()))
        line = f"{name}{{{wanted}}} " if labels else f"{name} "
        found = [each for each in text.splitlines() if each.startswith(line)]
        return float(found[0].split()[-1]) if found else 0.0

    def runs(outcome):
        return value("clip2clap_runs_total", task="classify", outcome=outcome)

    before = runs("done"), value("clip2clap_run_seconds_count", task="classify")
    client.predict(files=[handle_file(photograph)], labels="cat, dog", api_name="/classify")
    assert (runs("done"), value("clip2clap_run_seconds_count", task="classify")) == (
        before[0] + 1,
        before[1] + 1,
    )
    assert value("clip2clap_stored_bytes") >= photograph.stat().st_size
    assert value("clip2clap_runs_waiting") == 0
    assert value("process_resident_memory_bytes") > 0


def test_files_are_described_by_captions_and_keywords_as_on_the_command_line(
    client, photograph, recording, run_here, tmp_path, capsys
):
    named = client.predict(
        files=[handle_file(photograph), handle_file(recording)],
        vocabulary="esc50",
        api_name="/describe",
    )
    assert [len(each["labels"]) for each in named] == [5, 5]
    assert named[0]["labels"][0][0] == "cat"
    assert "cat" in named[0]["caption"]
    (tmp_path / "a-cat.jpg").write_bytes(photograph.read_bytes())
    (tmp_path / "bark.wav").write_bytes(recording.read_bytes())
    commands, python = describing_recipes(["a-cat.jpg", "bark.wav"], "esc50", {})
    keywords, caption = commands.splitlines()
    capsys.readouterr()
    run_here(f"{keywords} --json")
    for each, result in zip(named, json.loads(capsys.readouterr().out)["results"], strict=True):
        assert [label for label, _ in each["labels"]] == [
            found["keyword"] for found in result["segments"][0]["keywords"]
        ]
    run_here(caption)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [f"{each['file']}: {each['caption']}" for each in named]
    exec(compile(python, "python", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [f"{each['file']} {[each['caption']]}" for each in named]


def test_files_are_named_as_on_the_command_line_and_in_python(
    client, photograph, run_here, tmp_path, capsys
):
    labels = ["dog", "cat"]
    (named,) = client.predict(
        files=[handle_file(photograph)], labels=",".join(labels), api_name="/classify"
    )
    (tmp_path / "a-cat.jpg").write_bytes(photograph.read_bytes())
    command, python = naming_recipes(["a-cat.jpg"], labels, {})
    exec(compile(python, "python", "exec"), {})
    printed = capsys.readouterr().out
    name, found = printed.split(" ", 1)
    assert name == named["file"]
    assert [label for label, _ in ast.literal_eval(found)] == ["cat", "dog"]
    assert ast.literal_eval(found)[0][1] == pytest.approx(named["labels"][0][1], abs=1e-4)
    run_here(command)
    assert "cat" in capsys.readouterr().out.split()


def test_silence_and_what_is_no_file_have_no_caption_but_a_reason(client, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    (tmp_path / "no.png").write_bytes(b"nothing")
    named = client.predict(
        files=[handle_file(tmp_path / "silent.wav"), handle_file(tmp_path / "no.png")],
        vocabulary="esc50",
        api_name="/describe",
    )
    assert [each["caption"] for each in named] == [None, None]
    assert named[0]["reason"] == "silent.wav is silent."
    assert "no.png is not an image" in named[1]["reason"]


def test_no_file_is_a_vocabulary(client, photograph, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password one\npassword two\n")
    for name in (str(secret), "a, b", "", None, ["esc50"]):
        with pytest.raises(
            AppError, match="Expected vocabulary to be one of demo, demo-audio, esc50"
        ):
            client.predict(files=[handle_file(photograph)], vocabulary=name, api_name="/describe")
