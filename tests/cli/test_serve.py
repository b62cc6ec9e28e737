"""The verb `serve`: mistakes in its call, and a process that begins, is killed and begins again."""

import re
import signal
import socket
import subprocess
import sys
import time
from importlib import resources
from importlib.util import find_spec

import httpx
import pytest

from clip2clap.cli.app import main
from clip2clap.media.audio import load_audio


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--no-browser", *arguments])
    return ended.value.code, capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("clip2clap.cli.serve.find_spec", lambda name: None)
    code, message = run(capsys)
    assert code == 2
    assert message == 'error: serve needs gradio. Install it: pip install "clip2clap[web]".\n'


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "--port"),
        (["--max-users", "0"], "--max-users"),
        (["--workers", "0"], "--workers"),
        (["--max-upload-mb", "0"], "--max-upload-mb"),
        (["--max-audio-s", "1201"], "--max-audio-s"),
        (["--host", "not an address"], "--port: not an address at port 7860 cannot be"),
        (["--generator", "none"], "--generator: there is no generator preset or folder 'none'"),
        (["--translator", "none/at/all"], "--translator"),
        (["--decoder-translator", "none/at/all"], "--decoder-translator"),
        (["--device", "abacus"], "--device"),
        (
            ["--second-translator", "none/at/all"],
            "--second-translator: There is no folder none/at/all",
        ),
        (["--votes", "votes.csv"], "--votes: there is nothing to vote on"),
        (["--second-translator", "demo", "--votes", "none/votes.csv"], "none does not exist"),
        (["--second-translator", "demo", "--votes", "pyproject.toml"], "is no file of votes"),
        (["--index", "none"], "--index: none does not exist"),
        (["--index", "."], "--index: . holds no index"),
    ],
)
def test_mistakes_are_told_before_models_are_loaded(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr("clip2clap.cli.serve.find_spec", lambda name: True)
    monkeypatch.setattr("clip2clap.cli.serve._load", lambda options: pytest.fail("loaded"))
    code, shown = run(capsys, *arguments)
    assert code == 2
    assert message.lower() in shown.lower()
    assert shown.count("\n") == 1


def test_a_port_that_is_taken_is_named(capsys, monkeypatch):
    monkeypatch.setattr("clip2clap.cli.serve.find_spec", lambda name: True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, message = run(capsys, "--port", str(port))
    assert code == 2
    assert message == (
        f"error: --port: 127.0.0.1 at port {port} cannot be listened at: Address already in use. "
        "Name another port.\n"
    )


@pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra web")
def test_a_server_is_killed_in_a_run_begins_again_and_ends_without_a_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def start():
        process = subprocess.Popen(
            [sys.executable, "-m", "clip2clap", "serve", "--port", "0", "--no-browser"],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        return process, found[0]

    def folders():
        return list(tmp_path.glob("clip2clap-serve-*"))

    process, url = start()
    photograph = (resources.files("skimage.data") / "chelsea.png").read_bytes()
    image = httpx.post(f"{url}/gradio_api/upload", files={"files": ("chelsea.png", photograph)})
    sent = {"path": image.json()[0], "meta": {"_type": "gradio.FileData"}}
    call = [sent, None, 5.0, 4, None, 0, 5]
    httpx.post(f"{url}/gradio_api/call/image_to_audio", json={"data": call})
    end = time.monotonic() + 120
    while not any(path.stem.startswith("chelsea") for path in tmp_path.rglob("*.wav")):
        assert time.monotonic() < end, "nothing was generated"
        time.sleep(0.001)
    process.kill()
    process.wait()
    (left,) = folders()
    # What has its final name is whole.
    for path in left.rglob("*.wav"):
        waveform, rate = load_audio(path)
        assert len(waveform) / rate == pytest.approx(5.0, abs=0.2)
    process, url = start()
    try:
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        assert len(folders()) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert folders() == [left]
        assert process.communicate()[1] == ""
    finally:
        process.kill()
