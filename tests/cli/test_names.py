"""File names that are not text, too long, or mean something to a terminal or to matplotlib."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clip2clap.cli.options.common import Json
from clip2clap.cli.progress import RunReport

Run = Callable[..., tuple[int, str, str]]

NAMES = {
    "not UTF-8": "caf\udce9",
    "escape code": "red\x1b[31m",
    "mathematics": "a$_$b",
    "240 letters": "x" * 240,
    "240 bytes": "é" * 120,
    "hidden label": "_x",
}
FAST = ("--num-inference-steps", 1, "--num-candidates", 1)


def test_images_of_any_name_get_audio_and_spectrograms(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "named"
    folder.mkdir()
    for name in NAMES.values():
        shutil.copy(photos / "cat.png", folder / f"{name}.png")
    options = ("--generator", model, *FAST, "--spectrogram", "--json")
    status, shown, complaint = run("image-to-audio", folder, "-o", tmp_path / "out", *options)
    assert (status, complaint) == (0, "")
    results = json.loads(shown)["results"]
    assert {Path(entry["input"]).stem for entry in results} == set(NAMES.values())
    for entry in results:
        assert Path(entry["output"]).is_file()
        assert Path(entry["spectrogram"]).is_file()
        assert Path(entry["input"]).stem.startswith(Path(entry["output"]).stem)
    (folder / f"{NAMES['not UTF-8']}.png").write_bytes(b"no image")
    (folder / f"{NAMES['escape code']}.png").write_bytes(b"no image")
    status, _, complaint = run("image-to-audio", folder, "-o", tmp_path / "out", *options)
    assert status == 1
    assert len([line for line in complaint.splitlines() if line.startswith("skipped: ")]) == 2
    assert "caf\\udce9.png" in complaint
    assert "red\\x1b[31m.png" in complaint


def test_audio_of_any_name_gets_images(run: Run, painter_folder: Path, noise: Path, tmp_path: Path):
    folder = tmp_path / "named"
    folder.mkdir()
    for name in NAMES.values():
        shutil.copy(noise, folder / f"{name}.wav")
    options = ("--decoder", painter_folder, *FAST, "--grid", "--json")
    status, shown, _ = run("audio-to-image", folder, "-o", tmp_path / "out", *options)
    assert status == 0
    assert len(json.loads(shown)["results"]) == len(NAMES)


@pytest.mark.parametrize("name", ["a$_$b", "red\x1b[31m"])
def test_a_sweep_in_folders_of_any_name_ends_with_its_report(
    run: Run, table: Path, tmp_path: Path, name: str
) -> None:
    renamed = table.rename(tmp_path / name)
    grid = ("--hidden-size", 4, "--loss", "cosine", "--epochs", 1)
    out = tmp_path / f"{name}-sweep"
    status, shown, complaint = run("sweep", renamed, "-o", out, *grid)
    assert (status, complaint) == (0, "")
    assert (out / "report.html").is_file()
    assert "\x1b" not in shown.replace(str(out), "")


def test_a_folder_that_safetensors_cannot_write_is_refused_at_once(
    run: Run, table: Path, tmp_path: Path
) -> None:
    renamed = table.rename(tmp_path / "caf\udce9")
    for verb in ("train", "sweep"):
        status, _, complaint = run(verb, renamed)
        assert status == 2
        assert complaint.startswith("error: --output: ")
        assert (
            f"caf\\udce9-{'sweep' if verb == 'sweep' else 'translator'} is not UTF-8" in complaint
        )


@pytest.mark.parametrize("is_terminal", [False, True])
def test_names_are_printed_as_they_are_into_files_and_escaped_on_terminals(
    capfdbinary, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    from clip2clap.cli.app import main

    with pytest.raises(SystemExit):
        main(["--version"])
    capfdbinary.readouterr()
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    RunReport(Json(as_json=False)).show("caf\udce9 red\x1b[31m")
    shown = capfdbinary.readouterr().out
    raw = os.fsencode("caf\udce9 red\x1b[31m\n")
    assert shown == (b"caf\\udce9 red\\x1b[31m\n" if is_terminal else raw)
