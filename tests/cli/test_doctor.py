"""The doctor recognises what breaks an installation, and says how to mend it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from clip2clap.cli.app import main
from clip2clap.cli.diagnostics import DEMO_FILES, broken_companions, diagnose, format_report
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.writer import TableWriter


def install(folder: Path, name: str, version: str, code: str | None = None) -> None:
    """Put a stand-in for a package into a folder: what is known about it, and its code."""
    information = folder / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"
    )
    if code is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)


def problems(report: dict) -> list[str]:
    return [f"{problem['level']}: {problem['message']}" for problem in report["problems"]]


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with all it needs; gives the folder where packages can be put."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    install(packages, "torchvision", "0.99.0", code="")
    return packages


def test_a_healthy_installation_has_no_errors(healthy: Path) -> None:
    report = diagnose()
    assert [problem for problem in report["problems"] if problem["level"] == "error"] == []
    assert report["packages"]["torchvision"] == "0.99.0"
    assert report["packages"]["laion-clap"] is None
    assert report["devices"][0]["name"] == "cpu"
    assert 0 < report["memory"]["free"] <= report["memory"]["total"]


def test_a_torchvision_that_does_not_fit_is_recognised_with_the_remedy(healthy: Path) -> None:
    (healthy / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    (problem,) = broken_companions()
    assert problem.level == "error"
    assert "torchvision 0.99.0 does not fit torch" in problem.message
    assert "operator torchvision::nms does not exist" in problem.message
    assert "pip uninstall torchvision" in problem.fix


def test_laion_clap_beside_numpy_2_is_a_warning(healthy: Path) -> None:
    install(healthy, "numpy", "2.4.6")
    install(healthy, "laion_clap", "1.1.7")
    assert [line for line in problems(diagnose()) if "laion" in line] == [
        "warning: laion-clap 1.1.7 needs numpy below 2, and 2.4.6 is installed: "
        "loading laion_clap:... fails."
    ]


def test_a_package_too_old_for_clip2clap_is_an_error(healthy: Path) -> None:
    install(healthy, "transformers", "4.40.0")
    (line,) = [line for line in problems(diagnose()) if "transformers" in line]
    assert line.startswith("error: transformers 4.40.0 is installed, clip2clap needs transformers")


def test_missing_demo_models_are_an_error_that_names_them(healthy: Path, tmp_path: Path) -> None:
    for file in DEMO_FILES[:-2]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    report = diagnose(demo_folder=tmp_path)
    (line,) = [line for line in problems(report) if "demo models" in line]
    missing = ", ".join(DEMO_FILES[-2:])
    assert line.startswith(f"error: The demo models are incomplete: {missing} missing")


def test_models_on_disk_are_listed_with_their_size(healthy: Path) -> None:
    repo = Path(constants.HF_HUB_CACHE) / "models--openai--clip-vit-base-patch32"
    for folder in ("blobs", "refs", "snapshots/abc"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "blobs" / "weights").write_bytes(bytes(3 * 2**20))
    (repo / "snapshots" / "abc" / "model.safetensors").symlink_to("../../blobs/weights")
    report = diagnose()
    on_disk = {model["id"]: model["bytes"] for model in report["models"] if model["type"] == "clip"}
    assert on_disk["clip-vit-base-patch32"] == 3 * 2**20
    assert on_disk["clip-vit-large-patch14"] == 0
    assert "clip clip-vit-base-patch32      3.0 MiB" in format_report(report, "1.0")


def test_little_memory_and_disk_are_warnings(healthy: Path) -> None:
    memory, disk = {"total": 2**34, "free": 2**30}, {"folder": "/models", "free": 2**29}
    lines = problems(diagnose(memory=memory, disk=disk))
    assert "warning: Only 1.0 GiB of memory are free." in lines
    assert "warning: Only 512.0 MiB are free for /models." in lines


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_prints_the_same_as_text_and_json_and_fails_on_errors(
    healthy: Path, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    if broken:
        install(healthy, "transformers", "4.40.0")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    assert ended.value.code == int(broken)
    document = json.loads(capsys.readouterr().out)
    report = document["results"]
    with pytest.raises(SystemExit):
        main(["doctor"])
    text = capsys.readouterr().out
    assert text.startswith(f"clip2clap {document['clip2clap']}, Python {report['python']}")
    for name, version in report["packages"].items():
        assert f"  {name:<32}{version or '-'}\n" in text
    for problem in report["problems"]:
        assert problem["message"] in text
        assert problem["fix"] in text


def test_a_table_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = EmbeddingSpace("clip", "a/clip", "text", 4, True, "c1")
    with TableWriter(tmp_path / "table", {"clip_text": space}) as writer:
        writer.append(["a", "b"], {}, {"clip_text": torch.eye(2, 4)})
        writer.fail("c", "dead link")
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "table")])
    assert not ended.value.code
    assert "2 rows, 1 failed; all files are as they were written." in capsys.readouterr().out
    (file,) = (tmp_path / "table").glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"a", b"z", 1))
    with pytest.raises(SystemExit) as ended:
        main(["doctor", str(tmp_path / "table")])
    assert ended.value.code == 2
    assert "its content has changed" in capsys.readouterr().err


def test_the_doctor_works_where_torch_itself_cannot_be_imported(tmp_path: Path) -> None:
    install(tmp_path, "torch", "2.99.0", code="raise OSError('libtorch.so: cannot open')")
    done = subprocess.run(
        [sys.executable, "-m", "clip2clap", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert any(
        line.startswith("error: torch 2.99.0 is installed but cannot be imported (libtorch.so")
        for line in problems(json.loads(done.stdout)["results"])
    )
