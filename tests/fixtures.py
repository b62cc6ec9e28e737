"""Fixtures that several test files share: tiny models on disk, the command, forks, a server."""

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import settings

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.models.negative_embedding import LearnedNegativeEmbedding
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

from .builders import (
    CLAP_DIM,
    CLIP_DIM,
    ddim_scheduler,
    image_decoder_parts,
    speech_model,
    tiny_tokenizer,
    write_audioldm,
    write_clip,
    write_clip_image_encoder,
    write_speech,
    write_text_to_image,
)
from .builders import (
    tiny_language_model as build_language_model,
)

ROOT = Path(__file__).parents[1]
ROOT_ENTRIES = set(os.listdir(ROOT))

# Tests run in several processes side by side: one thread each, and each that they start, unless
# OMP_NUM_THREADS says otherwise. Tests that fork skip then.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))

# The suite draws the same inputs in every run; a long run of the fuzzers draws new ones.
settings.register_profile("same inputs", derandomize=True, deadline=None)
if "CLIP2CLAP_FUZZ" not in os.environ:
    settings.load_profile("same inputs")


@pytest.fixture(autouse=True)
def clean_repository() -> Iterator[None]:
    """Fail a test that leaves something in the root of the repository."""
    yield
    left = {name for name in os.listdir(ROOT) if not name.startswith((".", "__"))} - ROOT_ENTRIES
    ROOT_ENTRIES.update(left)
    assert not left, f"{', '.join(sorted(left))} left in {ROOT}: give the test its own folder"


@pytest.fixture(autouse=True)
def default_dtype() -> Iterator[None]:
    """Let no test change the dtype of the next."""
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def ddim() -> DDIMScheduler:
    """Return AudioLDM's scheduler."""
    return ddim_scheduler()


@pytest.fixture(scope="session")
def reading_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a CLIP with an image and a text encoder."""
    return write_clip(tmp_path_factory.mktemp("models") / "reading_clip")


@pytest.fixture(scope="session")
def foreign_reading_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a CLIP with the sizes of the other and other weights."""
    return write_clip(tmp_path_factory.mktemp("models") / "foreign_reading_clip", seed=1)


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory, reading_clip_folder: Path) -> Path:
    """Save a speech encoder into the space of the CLIP with both encoders."""
    return write_speech(tmp_path_factory.mktemp("models") / "speech", reading_clip_folder)


@pytest.fixture(scope="session")
def new_speech_model() -> Callable[..., tuple[Any, Any]]:
    """Builder of a tiny speech model with random weights, with its feature extractor."""
    return speech_model


@pytest.fixture(scope="session")
def painter_folder(
    tmp_path_factory: pytest.TempPathFactory, musicldm_folder: Path, reading_clip_folder: Path
) -> Path:
    """Save an audio-to-image pipeline laid out as the demo's is; its CLAP is MusicLDM's."""
    folder = tmp_path_factory.mktemp("models") / "painter"
    clap = ClapEncoder.from_pretrained(musicldm_folder)
    clip = ClipEncoder.from_pretrained(reading_clip_folder)
    torch.manual_seed(0)
    AudioToImagePipeline(
        clap=None,
        clip=None,
        translator=MLPTranslator(
            source_dim=CLAP_DIM,
            target_dim=CLIP_DIM,
            hidden_size=16,
            provenance=Provenance(clap.space("audio"), clip.space("image")),
        ),
        **image_decoder_parts(),
        scheduler=few_step_scheduler(ddim_scheduler()),
        negative_embedding=LearnedNegativeEmbedding.from_vector(torch.full((CLIP_DIM,), 0.2)),
        clip_space=clip.space("image").to_dict(),
        clap_id=str(musicldm_folder),
        clip_id=str(reading_clip_folder),
        default_num_inference_steps=3,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def audioldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save an AudioLDM checkpoint, whose CLAP has a text encoder alone."""
    return write_audioldm(tmp_path_factory.mktemp("models") / "audioldm")


@pytest.fixture(scope="session")
def musicldm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a MusicLDM checkpoint, whose text encoder is a whole CLAP."""
    return write_audioldm(tmp_path_factory.mktemp("models") / "musicldm", with_audio_encoder=True)


@pytest.fixture(scope="session")
def foreign_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a checkpoint whose CLAP has the sizes of the others and other weights."""
    folder = tmp_path_factory.mktemp("models") / "foreign"
    return write_audioldm(folder, with_audio_encoder=True, seed=1)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a CLIP image encoder."""
    return write_clip_image_encoder(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="session")
def foreign_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a CLIP with the sizes of the other and other weights."""
    return write_clip_image_encoder(tmp_path_factory.mktemp("models") / "foreign_clip", seed=1)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; returns its exit code, stdout and stderr."""

    from clip2clap.cli.app import main

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        printed = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, printed.out, printed.err

    return command


@pytest.fixture
def start_fork() -> Callable[..., int]:
    """Start a job in a forked process; returns the process id.

    The job's changes stay in that process, which can be killed.
    """
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    if torch.get_num_threads() > 1:
        pytest.skip("OpenMP's threads do not survive a fork: needs OMP_NUM_THREADS=1")

    def start(job: Callable[..., Any], *arguments: Any) -> int:
        child = os.fork()
        if not child:
            status = 1
            try:
                job(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return child

    return start


@pytest.fixture
def in_a_fork(start_fork: Callable[..., int]) -> Callable[..., int]:
    """Run a job in a forked process; returns its status, as `os.waitpid` does."""
    return lambda job, *arguments: os.waitpid(start_fork(job, *arguments), 0)[1]


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Serve a request handler on 127.0.0.1 until the test ends; returns the address."""
    running: list[ThreadingHTTPServer] = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def tiny_language_model() -> Callable[..., tuple[Any, Any]]:
    """Builder of a tiny causal language model, of a width, with its tokenizer."""
    return lambda width=16: (build_language_model(width), tiny_tokenizer())


@pytest.fixture(scope="session")
def text_to_image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline, tiny and with random weights."""
    return write_text_to_image(tmp_path_factory.mktemp("text_to_image"))
