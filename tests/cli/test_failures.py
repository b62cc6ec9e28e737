"""Full disks, signals, and errors as JSON."""

import json
import os
import re
import resource
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from clip2clap.cli.app import main
from clip2clap.cli.progress import json_document
from clip2clap.core.version import __version__

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inputs(
    request: pytest.FixtureRequest,
    run: Run,
    model: Path,
    painter_folder: Path,
    photos: Path,
    noise: Path,
    table: Path,
) -> dict[str, Path]:
    """Return what the commands read, by the name that stands for it in them."""
    captions = table.with_name("captions.csv")
    captions.write_text("id,caption\n1,a dog\n2,rain\n3,a cat\n")
    command = request.node.callspec.params["command"]
    if command.startswith("demo"):
        request.getfixturevalue("demo_models")
    if "RIDGE" in command:
        run("train", table, "--architecture", "ridge", "-o", table.with_name("ridge"))
    files = {"PHOTO": photos / "cat.png", "NOISE": noise, "CAPTIONS": captions}
    folders = {"MODEL": model, "PAINTER": painter_folder, "TABLE": table}
    return {**files, **folders, "RIDGE": table.with_name("ridge")}


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
        "extract CAPTIONS --pair caption-caption --demo",
        "fit --dataset CAPTIONS --demo",
        "evaluate RIDGE --table TABLE",
        "repeat MADE",
    ],
)
def test_a_full_disk_is_one_line(
    command: str,
    run: Run,
    in_a_fork: Callable[..., int],
    inputs: dict[str, Path],
    tmp_path: Path,
) -> None:
    if "MADE" in command:
        made, options = tmp_path / "made.wav", "--num-inference-steps 1 --num-candidates 1"
        model, photo = inputs["MODEL"], inputs["PHOTO"]
        run("image-to-audio", photo, "--generator", model, *options.split(), "-o", made)
        inputs = {**inputs, "MADE": made}
    for name, path in inputs.items():
        command = command.replace(name, shlex.quote(str(path)))

    # A file of stderr would be cut at the limit as well; a pipe has none.
    read_end, write_end = os.pipe()

    def write_more_than_fits() -> None:
        sys.stderr = os.fdopen(write_end, "w")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(command), "-o", str(tmp_path / "out")])
        sys.stderr.flush()
        os._exit(40 + int(str(ended.value.code)))

    status = os.waitstatus_to_exitcode(in_a_fork(write_more_than_fits))
    os.close(write_end)
    with os.fdopen(read_end) as stderr:
        complaint = stderr.read()
    assert status == 42, complaint
    lines = [line for line in complaint.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) == 1
    assert re.search("error: .*(room left|space left|can't)", lines[0])
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("image-to-audio PHOTO --generator MODEL -o x.wav", "--output"),
        ("audio-to-image NOISE --decoder PAINTER --film -o x.mp4", "--output"),
        ("guide --target-text rain -o x.png", "--output"),
        ("paint NOISE --decoder PAINTER -o x.png", "--output"),
        ("classify PHOTO -o x.jsonl", "--output"),
        ("classify NOISE --timeline x.png", "--timeline"),
    ],
)
def test_a_file_in_a_folder_that_cannot_be_written_to_is_refused_by_its_option(
    run: Run, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, command: str, flag: str
) -> None:
    # Nobody can write there, not even root, for whom folders are never read-only.
    monkeypatch.chdir("/proc")
    words = [inputs.get(word, word) for word in command.split()]
    status, shown, complaint = run(*words)
    assert (status, shown) == (2, "")
    assert complaint.startswith(f"error: {flag}: /proc can't be written to: ")
    assert complaint.endswith(". Make room, or choose another folder.\n")
    assert complaint.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        "norms TABLE",
        "demo PHOTO",
        "evaluate RIDGE --table TABLE",
        "train TABLE --architecture ridge",
        "sweep TABLE --hidden-size 8 --epochs 1",
        "extract CAPTIONS --pair caption-caption --demo",
        "paint NOISE --decoder PAINTER --num-iterations 1",
        "audio-to-image NOISE --decoder PAINTER --film",
    ],
)
def test_a_second_run_on_a_folder_in_use_is_refused(
    command: str, run: Run, inputs: dict[str, Path], tmp_path: Path
) -> None:
    words = [str(inputs.get(word, word)) for word in command.split()]
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        status, _, complaint = run(*words, "-o", tmp_path / "out")
    assert status == 2
    assert f"Another run is writing to {tmp_path / 'out'}." in complaint
    assert len(complaint.splitlines()) == 1


def test_rows_that_fail_are_counted_and_cost_no_others(run: Run, tmp_path: Path) -> None:
    table = tmp_path / "captions.csv"
    table.write_text("id,caption\n1,a dog\n2,\n3,\n")
    line = ["extract", table, "--pair", "caption-caption", "--demo"]
    status, shown, complaint = run(*line, "-o", tmp_path / "out")
    assert status == 0
    assert "1 rows, 2 failed" in shown
    warning = "warning: 2 of 3 rows failed, the first one, 2: empty caption. All reasons: "
    assert complaint == f"{warning}{tmp_path / 'out'}/failures.parquet\n"
    table.write_text("id,caption\n2,\n")
    status, _, complaint = run(*line, "-o", tmp_path / "none")
    assert status == 1
    assert "1 of 1 rows failed" in complaint


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
