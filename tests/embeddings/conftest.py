"""Encoders and data sets that several test files share."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import soundfile

from clip2clap.embeddings.extraction.plan import EncoderPlan

from .sources import CAPTIONS, picture, png, sound, write_clip_with_both_towers


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return write_clip_with_both_towers(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clap(musicldm_folder) -> str:
    return str(musicldm_folder)


@pytest.fixture(scope="module")
def plan(clip, clap) -> Callable[..., EncoderPlan]:
    return lambda *columns, **options: EncoderPlan(columns, clip=clip, clap=clap, **options)


@pytest.fixture
def media(tmp_path) -> Path:
    """Three pictures, of which one is damaged, with sounds and captions beside them."""
    folder = tmp_path / "media"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b", "a", "more/c")):
        picture(number).save(folder / f"{name}.png")
        soundfile.write(folder / f"{name}.wav", sound(number), 16_000)
        (folder / f"{name}.txt").write_text(CAPTIONS[number], "utf-8")
    (folder / "broken.jpg").write_bytes(png(0)[:100])
    soundfile.write(folder / "broken.wav", sound(9), 16_000)
    (folder / "broken.txt").write_text("a broken picture")
    picture(5).save(folder / "lonely.png")
    return folder


@pytest.fixture
def server(serve: Callable[[type[BaseHTTPRequestHandler]], str]) -> str:
    """A server on 127.0.0.1 with pictures under /NUMBER.png, and nothing else."""

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/").removesuffix(".png")
            body = png(int(name)) if name.isdigit() else b"nothing here"
            self.send_response(200 if name.isdigit() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return serve(Pictures)
