"""Batches on Ray: the same folder as without, also where an actor is killed."""

from dataclasses import replace
from typing import Any

import psutil
import pytest
from PIL import Image

from clip2clap.core.actors import RayConfig
from clip2clap.core.errors import UserError
from clip2clap.inference.batch import BatchOptions, Job, generate_audio
from clip2clap.report import audio_page

from .builders import SECONDS
from .test_batch import assert_same, lines_of

pytest.importorskip("ray", reason="needs clip2clap[ray]")
CALL: dict[str, Any] = {"audio_length_in_s": SECONDS, "num_inference_steps": 2}
OPTIONS = BatchOptions(batch_size=2, num_variations=2)
ON_RAY = replace(OPTIONS, ray=RayConfig(actors=2))


@pytest.fixture(autouse=True)
def no_niceness(monkeypatch):
    """Let Ray's workers run as soon as other processes."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.fixture
def jobs(tmp_path):
    """Write images, one of which is broken."""
    (tmp_path / "in").mkdir()
    paths = [tmp_path / "in" / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        Image.new("RGB", (40, 40), (25 * number, 100, 50)).save(path)
    paths[5].write_bytes(b"not an image")
    return [Job(str(path)) for path in paths]


def kill_an_actor() -> bool:
    for process in psutil.Process().children(recursive=True):
        if "GeneratingActor" in " ".join(process.cmdline()):
            process.kill()
            return True
    return False


def test_an_actor_killed_half_way_costs_nothing_and_the_run_goes_on_where_it_was(
    pipe_with_audio_encoder, jobs, tmp_path, monkeypatch
):
    monkeypatch.setattr(audio_page, "PART", 5)
    pipe = pipe_with_audio_encoder
    generate_audio(pipe, jobs, tmp_path / "here", OPTIONS, **CALL)
    killed: list[bool] = []

    def on_entry(entry: Any, resumed: bool) -> None:
        if not any(killed):
            killed.append(kill_an_actor())

    out = tmp_path / "ray"
    assert generate_audio(pipe, jobs[:3], out, ON_RAY, **CALL)["done"] == 3
    counts = generate_audio(pipe, jobs, out, ON_RAY, on_entry=on_entry, **CALL)
    assert any(killed)
    assert counts == {"done": 6, "resumed": 3, "skipped": 1, "failed": 0}
    assert_same(out, tmp_path / "here")
    assert [line["name"] for line in lines_of(out) if line["name"]] == [
        line["name"] for line in lines_of(tmp_path / "here") if line["name"]
    ]
    assert (out / "index-2.html").is_file()


def test_a_run_whose_jobs_all_fail_on_ray_ends_with_the_first_error(pipe, jobs, tmp_path):
    with pytest.raises(UserError, match="text, not audio"):
        generate_audio(pipe, jobs, tmp_path / "out", ON_RAY, num_candidates=2, **CALL)


def test_a_cluster_that_is_not_there_is_named(pipe, jobs, tmp_path):
    options = BatchOptions(ray=RayConfig("127.0.0.1:1"))
    with pytest.raises(UserError, match="can't be used") as raised:
        generate_audio(pipe, jobs, tmp_path / "out", options, **CALL)
    assert raised.value.param == "address"
