"""What is installed is what lies in the folders, and the command runs from it."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def folder_of(package: str) -> Path:
    """Where a package's files lie in the checkout, by setuptools' own rule."""
    parts = package.split(".")
    for length in range(len(parts), 0, -1):
        mapped = SETUPTOOLS["package-dir"].get(".".join(parts[:length]))
        if mapped is not None:
            return ROOT.joinpath(mapped, *parts[length:])
    raise AssertionError(f"{package} has no folder in package-dir")


def packages_in(name: str, folder: Path) -> set[str]:
    return {
        ".".join([name, *module.parent.relative_to(folder).parts])
        for module in folder.rglob("__init__.py")
    }


def test_the_package_list_is_the_list_of_folders() -> None:
    found = {
        package
        for name, folder in SETUPTOOLS["package-dir"].items()
        for package in packages_in(name, ROOT / folder)
    }
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that nothing built earlier in the checkout gets into it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, copy / name)
    for folder in {Path(folder).parts[0] for folder in SETUPTOOLS["package-dir"].values()}:
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), str(copy))
    (built,) = target.glob("*.whl")
    return built


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path) -> None:
    expected = {
        "/".join([*package.split("."), module.name])
        for package in SETUPTOOLS["packages"]
        for pattern in ("*.py*", "*.toml")
        for module in folder_of(package).glob(pattern)
    }
    core = folder_of("clip2clap")
    expected |= {"clip2clap/py.typed"} | {
        f"clip2clap/{file.relative_to(core).as_posix()}"
        for folder in ("demo_models", "report/static", "search/label_sets", "web/static")
        for file in (core / folder).rglob("*")
        if file.is_file()
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert wheel.stat().st_size < 95e6, "a wheel is limited to 95 MB"


def test_the_command_runs_from_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--no-index", "--target", str(tmp_path), str(wheel))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*command: str) -> str:
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    where = run(sys.executable, "-c", "import clip2clap.cli; print(clip2clap.cli.__file__)")
    assert Path(where.strip()).is_relative_to(tmp_path)
    (command,) = (tmp_path / "bin").glob("clip2clap*")
    for verb in ("demo", "image-to-audio", "train", "doctor"):
        assert verb in run(str(command), "--help")
