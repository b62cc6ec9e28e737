"""The documentation's examples of clients and of a service of one's own run as they stand."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from clip2clap.media.audio import load_audio

pytest.importorskip("gradio")

DOCS = Path(__file__).parents[2] / "docs/how-to"


def block(page, language, holds):
    """Return the block of a page's code that holds a text."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    (code,) = [each for each in found if holds in each]
    return code


@pytest.fixture
def here(monkeypatch, tmp_path, photograph):
    shutil.copy(photograph, tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)


def test_the_client_s_example_runs(server, here):
    code = block("serve.md", "python", "gradio_client").replace("http://127.0.0.1:7860", server.url)
    names = {}
    exec(compile(code, "serve.md", "exec"), names)
    assert len(names["files"]) == 2
    assert names["facts"]["heard_as"][0]["label"] == "cat"


@pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("jq") is None, reason="needs curl and jq"
)
def test_the_shell_s_example_runs(server, here):
    code = block("serve.md", "bash", "curl").replace("http://127.0.0.1:7860", server.url)
    done = subprocess.run(["bash", "-ec", code], capture_output=True, text=True, timeout=60)
    assert "event: complete" in done.stdout, done.stderr
    assert "dog-1.wav" in done.stdout or "dog.wav" in done.stdout


@pytest.fixture(scope="module")
def service():
    from fastapi.testclient import TestClient

    names = {}
    code = block("service.md", "python", "FastAPI")
    assert len([line for line in code.splitlines() if line]) <= 40
    exec(compile(code, "service.md", "exec"), names)
    names["pipe"].register_to_config(default_num_inference_steps=1)
    return TestClient(names["app"]), names


def test_the_service_makes_what_the_pipeline_makes(service, photograph):
    client, names = service
    image = photograph.read_bytes()

    def ask(seed):
        data = {"seconds": 1, "seed": seed}
        return client.post("/sound", files={"image": image}, data=data).content

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    for seed, answer in enumerate(answers):
        expected = names["pipe"](image, audio_length_in_s=1.0, generator=[seed]).audios[0]
        waveform, _ = load_audio(answer)
        np.testing.assert_allclose(waveform[200:-200], expected[200:-200], atol=2 / 32768)


@pytest.mark.parametrize(
    ("image", "data", "status", "reason"),
    [
        (b"no image", {}, 422, "not an image"),
        (bytes(20_000_001), {}, 413, "20,000,000 bytes"),
        (b"x", {"seconds": 1000}, 422, "less than or equal to 30"),
    ],
)
def test_the_service_refuses_what_it_cannot_do(service, image, data, status, reason):
    answer = service[0].post("/sound", files={"image": image}, data=data)
    assert answer.status_code == status
    assert reason in answer.text


def test_the_service_is_busy_when_five_wait(service, photograph):
    client, names = service
    for _ in range(5):
        names["places"].acquire()
    answer = client.post("/sound", files={"image": photograph.read_bytes()})
    for _ in range(5):
        names["places"].release()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
