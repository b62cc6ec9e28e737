"""The node pack in ComfyUI itself: its loader, its checks of a workflow, and its executor.

Skips unless COMFYUI names ComfyUI's folder, and its requirements are installed beside clip2clap.
"""

import os
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

from .builders import PACK, workflow

COMFYUI = os.environ.get("COMFYUI", "")
"""Folder of ComfyUI."""

pytestmark = pytest.mark.skipif(not COMFYUI, reason="needs ComfyUI")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder with what ComfyUI reads: the pack, an image and a sound."""
    base = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "output"):
        (base / name).mkdir()
    (base / "custom_nodes" / PACK.name).symlink_to(PACK)
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(base / "input/dog.jpg")
    time = np.arange(44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(base / "input/bark.wav", np.stack([tone, 0.5 * tone], 1), 44_100)
    return base


@pytest.fixture(scope="module")
def comfyui(base):
    """Start ComfyUI on the CPU, and return a client of its interface."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "main.py", "--cpu", "--disable-api-nodes", "--listen", "127.0.0.1"]
    command += ["--port", str(port), "--base-directory", str(base)]
    command += ["--database-url", f"sqlite:///{base}/comfyui.db"]
    with (
        (base / "log").open("w") as log,
        subprocess.Popen(command, cwd=COMFYUI, stdout=log, stderr=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            while not answers(client):
                assert process.poll() is None, (base / "log").read_text()
                time.sleep(0.5)
            yield client
        finally:
            process.kill()


def answers(client):
    try:
        return client.get("/system_stats").is_success
    except httpx.TransportError:
        return False


def run(comfyui, steps):
    """Run a workflow, and return its status and the outputs of its nodes."""
    answer = comfyui.post("/prompt", json={"prompt": steps})
    assert answer.status_code == 200, answer.text
    number = answer.json()["prompt_id"]
    while number not in (history := comfyui.get(f"/history/{number}").json()):
        time.sleep(0.2)
    return history[number]["status"]["status_str"], history[number]["outputs"]


def test_its_loader_takes_every_node(comfyui, base):
    nodes = {k: v for k, v in comfyui.get("/object_info").json().items() if "lip2clap" in k}
    assert len(nodes) == 7
    assert {each["python_module"] for each in nodes.values()} == {f"custom_nodes.{PACK.name}"}
    assert "IMPORT FAILED" not in (base / "log").read_text()


def test_the_example_makes_sounds_of_an_image(comfyui, base):
    steps = workflow("image_to_sound", seconds=1.0, variations=2, steps=1)
    status, outputs = run(comfyui, steps)
    assert status == "success"
    files = [base / "output" / each["filename"] for each in outputs["6"]["audio"]]
    assert [path.name for path in files] == ["dog_00001_.flac", "dog_00002_.flac"]
    assert [len(load_audio(path)[0]) for path in files] == [16_000, 16_000]
    assert len(outputs["7"]["audio"]) == 2


def test_the_example_makes_images_of_a_sound(comfyui, base):
    status, outputs = run(comfyui, workflow("sound_to_image", count=2, steps=1))
    assert status == "success"
    sizes = [load_image(base / "output" / each["filename"]).size for each in outputs["4"]["images"]]
    assert sizes == [(64, 64), (64, 64)]


def test_its_own_nodes_go_before_and_after(comfyui, base):
    steps = workflow("image_to_sound", seconds=1.0, variations=1, steps=1)
    steps["8"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 3}}
    steps["3"]["inputs"]["image"] = ["8", 0]
    saving = {"audio": ["3", 0], "filename_prefix": "sub/own"}
    steps["9"] = {"class_type": "SaveAudio", "inputs": saving}
    status, outputs = run(comfyui, steps)
    assert status == "success"
    waveforms = [load_audio(base / "output/sub" / each["filename"])[0] for each in
                 outputs["9"]["audio"]]  # fmt: skip
    assert [len(each) for each in waveforms] == [16_000] * 3
    # Each item of a batch has a seed of its own.
    assert not np.allclose(waveforms[0], waveforms[1], atol=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"variations": 0}, "value_smaller_than_min"),
        ({"format": "exe"}, "value_not_in_list"),
        ({"image": ["2", 0]}, "return_type_mismatch"),
    ],
)
def test_its_checks_refuse_what_the_nodes_do_not_take(comfyui, changes, reason):
    steps = workflow("image_to_sound", **{"seconds": 1.0, "steps": 1, **changes})
    steps["1"]["inputs"]["image"] = "dog.jpg"
    errors = comfyui.post("/prompt", json={"prompt": steps}).json()["node_errors"]
    found = {error["type"] for each in errors.values() for error in each["errors"]}
    assert found == {reason}


def test_a_run_that_is_interrupted_ends_and_the_next_one_runs(comfyui):
    steps = workflow("image_to_sound", seconds=1.0, variations=1, steps=1000, seed=7)
    number = comfyui.post("/prompt", json={"prompt": steps}).json()["prompt_id"]
    while number not in (each[1] for each in comfyui.get("/queue").json()["queue_running"]):
        time.sleep(0.2)
    time.sleep(2)
    assert comfyui.post("/interrupt", json={}).is_success
    while number not in (history := comfyui.get(f"/history/{number}").json()):
        time.sleep(0.2)
    messages = [name for name, _ in history[number]["status"]["messages"]]
    assert "execution_interrupted" in messages
    assert run(comfyui, workflow("image_to_sound", seconds=1.0, variations=1, steps=1))[0] == (
        "success"
    )
