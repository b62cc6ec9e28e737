"""A server with the demo models, in a thread."""

import copy
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
import torch

from clip2clap import AudioToImagePipeline, ClapEncoder, ClipEncoder, ImageToAudioPipeline
from clip2clap.captioning import Captioner
from clip2clap.inference import Canvas
from clip2clap.search import FileCaptioner, Index, update_index
from clip2clap.web.app import create_app
from clip2clap.web.comparing import Contest, Contestant
from clip2clap.web.limits import Limits
from clip2clap.web.models import Models, Service
from clip2clap.web.server import create_server
from clip2clap.web.votes import Votes


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
def serving(models: Models, limits: Limits, contest: Contest | None = None) -> Iterator[Server]:
    """Serve in a thread until the block ends; skips where gradio is not installed."""
    pytest.importorskip("gradio")
    folder = os.environ.get("GRADIO_TEMP_DIR")
    service = Service(models, limits, contest)
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
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with images and sounds, and their index in `index`."""
    import numpy as np
    import soundfile
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("library")
    for name in ("chelsea", "rocket", "coffee"):
        Image.fromarray(getattr(data, name)()).resize((120, 80)).save(folder / f"a {name}.jpg")
    time = np.arange(16_000) / 16_000
    for name, hertz in (("high", 2000), ("low", 100)):
        wave = 0.3 * np.sin(2 * np.pi * hertz * time) * np.exp(-2 * time)
        soundfile.write(folder / f"{name}.wav", wave, 16_000)
    (folder / "secret.txt").write_text("never indexed")
    update_index([folder], folder / "index")
    return folder


class Heard:
    """Stand-in of a speech encoder, which hears the same words in all speech."""

    def __init__(self, clip: ClipEncoder, words: str):
        self._embeds = clip.encode_text([words])

    def encode_audio(self, audio: list[Any]) -> torch.Tensor:
        return self._embeds.expand(len(audio), -1)


@pytest.fixture(scope="session")
def models(library: Path) -> Models:
    """The demo models, with an index, and speech that always means a cat."""
    image_to_audio = ImageToAudioPipeline.from_pretrained("demo")
    image_to_audio.set_progress_bar_config(disable=True)
    audio_to_image = AudioToImagePipeline.from_pretrained("demo")
    audio_to_image.set_progress_bar_config(disable=True)
    clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
    index = Index(library / "index", longest_s=5.0)
    translators = (image_to_audio.translator, audio_to_image.translator)
    index.share((clip, clap), [each for each in translators if each is not None])
    canvas = Canvas.from_pretrained("demo")
    speech: Any = Heard(clip, "a photo of a cat")
    captioners = [Captioner.from_pretrained(name) for name in ("demo", "demo-clap")]
    return Models(
        image_to_audio,
        audio_to_image,
        clip=clip,
        clap=clap,
        canvas=canvas,
        captioner=FileCaptioner(captioners, clip=clip, clap=clap),
        speech=speech,
        index=index,
    )


@pytest.fixture(scope="session")
def pair(models: Models) -> tuple[Contestant, Contestant]:
    """The demo translator, and one whose weights are another's."""
    pipeline = models.image_to_audio
    translator = copy.deepcopy(pipeline.translator)
    assert translator is not None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in translator.parameters():
            each += 0.5 * each.std() * torch.randn(each.shape, generator=generator)
    other = ImageToAudioPipeline.from_pipe(pipeline, translator=translator)
    other.set_progress_bar_config(disable=True)
    return Contestant.of(None, pipeline), Contestant.of("noisy/", other)


@pytest.fixture(scope="session")
def server(models: Models, pair: tuple[Contestant, Contestant]) -> Iterator[Server]:
    limits = Limits(upload_bytes=2_000_000, input_s=5.0, output_s=3.0, iterations=5)
    with serving(models, limits, Contest(*pair, Votes())) as server:
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
