"""The folder of a Hugging Face Space: its settings, and its app in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.requirements import Requirement

pytest.importorskip("gradio")
ROOT = Path(__file__).parents[2]
SPACE = ROOT / "spaces"


def test_its_settings_fit_what_the_package_requires():
    text = (SPACE / "README.md").read_text(encoding="utf-8")
    settings = yaml.safe_load(text.split("---\n")[1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (needed,) = [each for each in project["optional-dependencies"]["web"] if "gradio" in each]
    assert settings["sdk"] == "gradio"
    assert Requirement(needed).specifier.contains(settings["sdk_version"])
    assert (SPACE / settings["app_file"]).is_file()
    assert len(settings["short_description"]) <= 60
    (wanted,) = map(Requirement, (SPACE / "requirements.txt").read_text().split())
    assert wanted.name == project["name"]
    assert wanted.extras <= project["optional-dependencies"].keys()


def test_its_app_serves_at_the_port_of_the_space_until_it_is_ended(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, SPACE / "app.py"],
        env={**os.environ, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        assert re.search(rf"http://127\.0\.0\.1:{port}", process.stderr.readline())
        # The server listens before it has loaded its models, and answers after.
        answer = httpx.get(f"http://127.0.0.1:{port}/config", timeout=60).json()
        names = {each["api_name"] for each in answer["dependencies"]}
        assert {"image_to_audio", "audio_to_image", "film", "classify", "describe"} <= names
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
