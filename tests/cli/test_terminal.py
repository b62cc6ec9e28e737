"""Lines and progress bars on a terminal, which share it."""

import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from clip2clap.cli.app import main
from clip2clap.cli.options.common import Json
from clip2clap.cli.progress import RunReport, progress_bar

Show = Callable[[Callable[[], object]], list[str]]

FAST = ("--num-inference-steps", "1", "--num-candidates", "1")


def screen(written: str) -> list[str]:
    """Return the lines that stay on a terminal of any width."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if part == "\n":
            row += 1
            rows += [""] * (row == len(rows))
        elif part == "\r":
            column = 0
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part == "\x1b[1A":
            row -= 1
        elif part[0] != "\x1b":
            rows[row] = rows[row][:column] + part + rows[row][column + len(part) :]
            column += len(part)
    return rows


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Run a function on a terminal of 60 columns; returns the lines that stay on it."""
    pty = pytest.importorskip("pty")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")

    def run(function: Callable[[], object], only_stderr: bool = False) -> list[str]:
        ours, theirs = pty.openpty()
        written = bytearray()

        def read() -> None:
            try:
                while block := os.read(ours, 4096):
                    written.extend(block)
            except OSError:  # the other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        with open(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", terminal)
            if not only_stderr:
                patch.setattr(sys, "stdout", terminal)
            function()
        reader.join()
        os.close(ours)
        return [each for each in screen(written.decode()) if each]

    return run


def run_command(*arguments: object) -> None:
    with pytest.raises(SystemExit):
        main([str(each) for each in arguments])


def test_paths_have_lines_of_their_own_while_a_bar_is_shown(
    show: Show, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a folder whose name is longer than a line of the terminal, if not by much"
    (photos / "broken.png").write_bytes(b"no image")
    options = ("-o", out, "--generator", model, "--batch-size", 1, *FAST)
    lines = show(lambda: run_command("image-to-audio", photos, *options))
    paths = [str(out / name) for name in ("cat.wav", "dog.wav", "dog-2.wav")]
    assert sorted(each for each in lines if ".wav" in each) == sorted(paths)
    (skipped,) = [each for each in lines if "skipped: " in each]
    assert skipped.startswith("skipped: ")
    assert not [each for each in lines if "Generating" in each]


def test_rows_of_csv_have_lines_of_their_own(show: Show, photos: Path) -> None:
    lines = show(lambda: run_command("classify", photos, "--csv", "--top-k", 1))
    rows = [each for each in lines if ",1," in each]
    assert [each.split(",")[0] for each in rows] == [str(each) for each in sorted(photos.iterdir())]


def test_lines_of_a_pipe_are_not_printed_above_a_bar_on_stderr(
    show: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    report = RunReport(Json(as_json=False))

    def work() -> None:
        with progress_bar("Working") as progress:
            progress.add_task("", total=2)
            report.show("first.wav")
        # rich replaces stdout for a status too, whether it is a terminal or not.
        with Console(stderr=True).status("Loading"):
            report.show("second.wav")
            report.skip("a.png", "a.png is broken.")

    lines = show(work, only_stderr=True)
    assert "skipped: a.png is broken." in lines
    assert not [each for each in lines if ".wav" in each]
    assert capsys.readouterr().out == "first.wav\nsecond.wav\n"
