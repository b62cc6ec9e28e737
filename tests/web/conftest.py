"""A server with the demo models, in a thread."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from clip2clap import AudioToImagePipeline, ClapEncoder, ClipEncoder, ImageToAudioPipeline
from clip2clap.inference import Canvas
from clip2clap.web.app import create_app
from clip2clap.web.limits import Limits
from clip2clap.web.models import Models, Service
from clip2clap.web.server import create_server


@dataclass
class Server:
    """Address of a server, and its service."""

    url: str
    service: Service
    blocks: Any

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])


@contextmanager
def serving(models: Models, limits: Limits) -> Iterator[Server]:
    """Serve in a thread until the block ends; skips where gradio is not installed."""
    pytest.importorskip("gradio")
    folder = os.environ.get("GRADIO_TEMP_DIR")
    service = Service(models, limits)
    app = create_app(service)
    listening = socket.create_server(("127.0.0.1", 0))
    server = create_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        yield Server(url, service, app.state.blocks)
    finally:
        server.should_exit = True
        thread.join()
        if folder is not None:
            os.environ["GRADIO_TEMP_DIR"] = folder


@pytest.fixture(scope="session")
def models() -> Models:
    image_to_audio = ImageToAudioPipeline.from_pretrained("demo")
    image_to_audio.set_progress_bar_config(disable=True)
    audio_to_image = AudioToImagePipeline.from_pretrained("demo")
    audio_to_image.set_progress_bar_config(disable=True)
    return Models(
        image_to_audio,
        audio_to_image,
        clip=ClipEncoder.from_pretrained("demo"),
        clap=ClapEncoder.from_pretrained("demo"),
        canvas=Canvas.from_pretrained("demo"),
    )


@pytest.fixture(scope="session")
def server(models: Models) -> Iterator[Server]:
    limits = Limits(upload_bytes=2_000_000, input_s=5.0, output_s=3.0, iterations=5)
    with serving(models, limits) as server:
        yield server


@pytest.fixture(scope="session")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image
    from skimage import data

    path = tmp_path_factory.mktemp("photographs") / "a cat.jpg"
    Image.fromarray(data.chelsea()).resize((225, 150)).save(path)
    return path


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np
    import soundfile

    path = tmp_path_factory.mktemp("recordings") / "bark.wav"
    time = np.arange(16_000) / 16_000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-3 * time), 16_000)
    return path
