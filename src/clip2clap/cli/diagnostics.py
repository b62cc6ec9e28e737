"""Diagnostics for bug reports: versions, devices, models on disk, and known problems.

Nothing here imports transformers or diffusers, since a mismatched torchvision breaks them, which
the diagnostics have to report.
"""

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from clip2clap.core.errors import one_line
from clip2clap.core.memory import measure_memory
from clip2clap.core.presets import DEMO_FOLDER, PRESETS

_PACKAGES = (
    *("torch", "transformers", "diffusers", "accelerate", "huggingface-hub", "safetensors"),
    *("datasets", "pyarrow", "numpy", "pillow", "scikit-image", "soundfile", "av", "soxr"),
    *("matplotlib", "httpx", "typer", "rich", "torchvision", "torchaudio", "open_clip_torch"),
    "laion-clap",
)
# transformers imports these if installed, and fails if they are incompatible with torch.
_COMPANIONS = ("torchvision", "torchaudio")
DEMO_FILES = (
    "audio_to_image/model_index.json",
    "image_to_audio/model_index.json",
    "clap/config.json",
    "captioner/clip/config.json",
    "speech/config.json",
    "kinds.json",
    "kinds.safetensors",
)
"""Files of the demo models that are checked."""
_GIB = 2**30
# A full-size AudioLDM-S with a CLIP holds some 1.4 GiB of float32 weights, and works beside them.
_LOW_MEMORY = 3 * _GIB
_LOW_DISK = 1 * _GIB


@dataclass(frozen=True)
class Problem:
    """Known problem: an `error` makes commands fail, a `warning` only some uses."""

    level: Literal["error", "warning"]
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.message} {self.fix}"


def diagnose(
    *,
    memory: dict[str, int] | None = None,
    disk: dict[str, Any] | None = None,
    demo_folder: Path | None = None,
) -> dict[str, Any]:
    """Examine the installation; return plain values.

    By default the `total` and `free` bytes of the memory are measured, and the `folder` of the
    downloads with the bytes that are `free` there.
    """
    memory, disk = memory or measure_memory(), disk or _measure_disk()
    cached, cache_problems = _cached_models()
    problems = [
        *_package_problems(),
        *broken_companions(),
        *_device_problems(),
        *cache_problems,
        *_demo_problems(demo_folder or DEMO_FOLDER),
        *_space_problems(memory, disk),
    ]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "devices": _devices(),
        "models": [
            {"type": kind, "id": name, "from": origin, "bytes": _bytes_on_disk(origin, cached)}
            for kind, presets in PRESETS.items()
            for name, origin in presets.items()
        ],
        "memory": memory,
        "disk": disk,
        "problems": [asdict(problem) for problem in problems],
    }


def broken_companions() -> Iterator[Problem]:
    """Yield packages beside torch that are incompatible with it.

    transformers imports any torchvision and torchaudio it finds; one built for another torch
    (`operator torchvision::nms does not exist`) makes its CLIP and CLAP fail to import. pip does
    not notice: a CPU build and a CUDA build of torch have the same version.
    """
    if _import_failure("torch"):
        return
    for name in _COMPANIONS:
        failure = _import_failure(name) if _version(name) is not None else None
        if failure is not None:
            yield Problem(
                "error",
                f"{name} {_version(name)} does not fit torch {_version('torch')} ({failure}), and "
                "transformers' CLIP and CLAP cannot be imported because of it.",
                f"clip2clap works without {name}: pip uninstall {name}. To keep it, install both "
                f"from one index: pip install --force-reinstall torch {name}",
            )


def format_report(report: dict[str, Any], version: str) -> str:
    """Format a report as plain text to paste into a bug report."""
    disk = report["disk"]
    sections = {
        "Packages": {name: version or "-" for name, version in report["packages"].items()},
        "Devices": {device["name"]: device["description"] for device in report["devices"]},
        "Models on disk": {
            f"{model['type']} {model['id']}": _size(model["bytes"]) if model["bytes"] else "-"
            for model in report["models"]
        },
        "Free space": {
            "memory": f"{_size(report['memory']['free'])} free",
            "disk": f"{_size(disk['free'])} free for {disk['folder']}",
        },
    }
    lines = [f"clip2clap {version}, Python {report['python']}, {report['platform']}", ""]
    for title, rows in sections.items():
        lines += [title, *(f"  {name:<32}{value}" for name, value in rows.items()), ""]
    lines.append("Problems" if report["problems"] else "No problems found.")
    for problem in report["problems"]:
        lines += [f"  {problem['level']}: {problem['message']}", f"    {problem['fix']}"]
    return "\n".join(lines)


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.1f} MiB"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _import_failure(module: str) -> str | None:
    """Return in one line why a module cannot be imported, or None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a broken binary can raise anything
        return one_line(error)
    return None


def _package_problems() -> Iterator[Problem]:
    """Compare the declared dependencies with the installed packages."""
    for line in metadata.requires("clip2clap") or []:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version, expected = _version(needed.name), f"{needed.name}{needed.specifier}"
        if version is not None and needed.specifier.contains(version, prereleases=True):
            continue
        message = f"{needed.name} is not installed."
        if version is not None:
            message = f"{needed.name} {version} is installed, clip2clap needs {expected}."
        yield Problem("error", message, f'Install it: pip install "{expected}"')
    for module in ("torch", "soundfile"):
        failure = _import_failure(module) if _version(module) is not None else None
        if failure is not None:
            yield Problem(
                "error",
                f"{module} {_version(module)} is installed but cannot be imported ({failure}).",
                f"Install it again: pip install --force-reinstall {module}",
            )
    numpy, laion_clap = _version("numpy"), _version("laion-clap")
    if laion_clap is not None and numpy is not None and int(numpy.split(".")[0]) >= 2:
        yield Problem(
            "warning",
            f"laion-clap {laion_clap} needs numpy below 2, and {numpy} is installed: "
            "loading laion_clap:... fails.",
            'Install them together: pip install "clip2clap[laion-clap]"; or load CLAP through '
            "transformers, which needs no extra (--ranker laion/clap-htsat-unfused)",
        )


def _device_problems() -> Iterator[Problem]:
    if shutil.which("nvidia-smi") is None or _import_failure("torch"):
        return
    import torch

    if torch.cuda.is_available():
        return
    message, fix = (
        "finds no CUDA device",
        "Check that nvidia-smi lists one, and that the driver is new enough for CUDA "
        f"{torch.version.cuda}.",
    )
    if torch.version.cuda is None:
        message = "is built without CUDA"
        fix = "To use the GPU, install a CUDA build of torch (https://pytorch.org/get-started)."
    message = f"There is an NVIDIA driver, but torch {torch.__version__} {message}."
    yield Problem("warning", message, fix)


def _devices() -> list[dict[str, Any]]:
    """List the devices, the CPU first."""
    if _import_failure("torch"):
        return []
    import torch

    # Older versions of torch do not report the CPU's name.
    found = getattr(torch.cpu, "get_capabilities", dict)()
    name = found.get("cpu_name") or platform.processor() or platform.machine()
    bfloat16 = any(found.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
    cpu = (
        f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, "
        f"bfloat16 {'in hardware' if bfloat16 else 'not in hardware'}"
    )
    devices = [("cpu", cpu, bfloat16)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        description = f"{properties.name}, {_size(properties.total_memory)}"
        devices.append((f"cuda:{index}", description, torch.cuda.is_bf16_supported()))
    if torch.backends.mps.is_available():
        devices.append(("mps", "Apple GPU", True))
    keys = ("name", "description", "bfloat16")
    return [dict(zip(keys, device, strict=True)) for device in devices]


def _cached_models() -> tuple[dict[str, int], list[Problem]]:
    """Return the bytes of each repository in the download folder."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
        return {repo.repo_id: repo.size_on_disk for repo in repos}, []
    except CacheNotFound:
        return {}, []
    except OSError as error:
        message = f"The model cache cannot be read ({error})."
        fix = "Check its permissions, or name another folder in HF_HOME."
        return {}, [Problem("warning", message, fix)]


def _bytes_on_disk(repo_id: str, cached: dict[str, int]) -> int:
    if not Path(repo_id).is_absolute():
        return cached.get(repo_id, 0)
    return sum(path.stat().st_size for path in Path(repo_id).rglob("*") if path.is_file())


def _demo_problems(folder: Path) -> Iterator[Problem]:
    missing = [file for file in DEMO_FILES if not (folder / file).is_file()]
    if missing:
        yield Problem(
            "error",
            f"The demo models are incomplete: {', '.join(missing)} missing in {folder}.",
            "Install clip2clap again, or name another model: image-to-audio --generator ...",
        )


def _measure_disk() -> dict[str, Any]:
    """Measure the free disk space of the download folder."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return {"folder": str(folder), "free": shutil.disk_usage(existing).free}


def _space_problems(memory: dict[str, int], disk: dict[str, Any]) -> Iterator[Problem]:
    if memory["free"] < _LOW_MEMORY:
        yield Problem(
            "warning",
            f"Only {_size(memory['free'])} of memory are free.",
            "The demo models fit; for the real ones use --dtype bf16 and --batch-size 1.",
        )
    if disk["free"] < _LOW_DISK:
        yield Problem(
            "warning",
            f"Only {_size(disk['free'])} are free for {disk['folder']}.",
            "Real models need 1 to 6 GiB each: free some, or name another folder in HF_HOME.",
        )
