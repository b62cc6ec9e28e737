"""Full disks, signals, and errors as JSON."""

import json
import os
import resource
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from clip2clap.cli.app import main
from clip2clap.cli.progress import json_document
from clip2clap.core.version import __version__

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "command",
    [
        "image-to-audio PHOTO --generator MODEL --num-inference-steps 1 --num-candidates 1",
        "audio-to-image NOISE --decoder PAINTER --num-inference-steps 1",
        "audio-to-image NOISE --decoder PAINTER --num-inference-steps 1 --film --fps 2",
        "paint NOISE --decoder PAINTER --num-iterations 1 --cutouts 1 --width 16 --height 16",
        "train TABLE --architecture ridge",
        "train TABLE --hidden-size 8 --epochs 1",
        "sweep TABLE --hidden-size 8 --loss mse --epochs 1",
        "norms TABLE",
        "demo PHOTO",
    ],
)
def test_a_full_disk_is_one_line(
    command: str, in_a_fork, capfd, model: Path, painter_folder, photos, noise, table, tmp_path
) -> None:
    names = {"PHOTO": photos / "cat.png", "MODEL": model, "PAINTER": painter_folder}
    names |= {"NOISE": noise, "TABLE": table}
    for name, path in names.items():
        command = command.replace(name, shlex.quote(str(path)))

    def write_more_than_fits() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(command), "-o", str(tmp_path / "out")])
        os._exit(40 + int(str(ended.value.code)))

    capfd.readouterr()
    status = os.waitstatus_to_exitcode(in_a_fork(write_more_than_fits))
    complaint = capfd.readouterr().err
    assert status == 42, complaint
    lines = [line for line in complaint.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("verb", ["norms absent", "train absent", "image-to-audio absent.png"])
def test_an_error_is_a_json_document_too(run: Run, verb: str) -> None:
    status, shown, complaint = run(*verb.split(), "--json")
    assert status == 2
    document = json.loads(shown)
    assert (document["version"], document["clip2clap"]) == (1, __version__)
    error = document["error"]
    assert complaint == f"error: {error['message']}\n"
    assert error["param"] in ("table", "inputs")


def test_numbers_that_are_not_finite_are_null() -> None:
    document = json.loads(json_document(results=[{"loss": float("nan")}, (1.5, float("inf"))]))
    assert document["results"] == [{"loss": None}, [1.5, None]]
