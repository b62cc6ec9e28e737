"""The command itself: help, versions, libraries that do not fit."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clip2clap.core.version import __version__

Run = Callable[..., tuple[int, str, str]]


def test_help_names_every_verb_and_is_what_no_arguments_show(run: Run) -> None:
    status, shown, _ = run("--help")
    assert status == 0
    for verb in ("demo", "image-to-audio", "train", "doctor"):
        assert verb in shown
    assert run() == (0, shown, "")


def test_version_is_the_package_s(run: Run) -> None:
    assert run("--version") == (0, f"clip2clap {__version__}\n", "")


def test_help_imports_neither_torch_nor_the_libraries_above_it() -> None:
    code = (
        "import sys; from clip2clap.cli.app import main\n"
        "try: main(['image-to-audio', '--help'])\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'transformers', 'diffusers', 'datasets', 'numpy', 'matplotlib', 'PIL'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_torchvision_that_does_not_fit_is_named_in_one_line(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "torchvision"
    broken.mkdir()
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    information = tmp_path / "torchvision-0.28.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "clip2clap", "image-to-audio"),
            *(photos / "cat.png", "-o", tmp_path / "out", "--generator", model),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: torchvision 0.28.0 does not fit torch")
    assert "pip uninstall torchvision" in done.stderr
    assert done.stderr.count("\n") == 1
