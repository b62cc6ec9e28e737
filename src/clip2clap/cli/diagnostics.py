"""Diagnostics for bug reports: versions, devices, models on disk, and known problems.

Nothing here imports transformers or diffusers, since a mismatched torchvision breaks them, which
the diagnostics have to report.
"""

import importlib
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from clip2clap.core.errors import one_line
from clip2clap.core.presets import DEMO_FOLDER, PRESETS
from clip2clap.core.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "diffusers",
    "accelerate",
    "huggingface-hub",
    "safetensors",
    "datasets",
    "pyarrow",
    "numpy",
    "pillow",
    "scikit-image",
    "soundfile",
    "av",
    "soxr",
    "matplotlib",
    "httpx",
    "typer",
    "rich",
    "torchvision",
    "torchaudio",
    "open_clip_torch",
    "laion-clap",
)
# transformers imports these if installed, and fails if they are incompatible with torch.
_COMPANIONS = ("torchvision", "torchaudio")
_DEMO_PARTS = (
    "audio_to_image/model_index.json",
    "image_to_audio/model_index.json",
    "clap/config.json",
    "kinds.json",
    "kinds.safetensors",
)
_GIB = 2**30
# A full-size AudioLDM-S with a CLIP holds some 1.4 GiB of float32 weights, and works beside them.
_LOW_MEMORY = 3 * _GIB
_LOW_DISK = 1 * _GIB


@dataclass(frozen=True)
class Problem:
    """Something that would go wrong, and how to mend it."""

    level: Literal["error", "warning"]
    """`error` if the commands fail because of it, `warning` if only some uses do."""

    what: str
    """The problem, in one sentence."""

    remedy: str
    """The fix."""

    def __str__(self) -> str:
        return f"{self.what} {self.remedy}"


def examine() -> dict[str, Any]:
    """Look the installation over.

    Returns:
        Plain values, ready for JSON: `clip2clap`, `python`, `platform`, `packages` (name to
        version, or None where it is not installed), `devices`, `models` (with bytes on disk),
        `memory` and `disk` (in bytes), `problems`.
    """
    packages = {name: _version(name) for name in _PACKAGES}
    models, model_problems = _models()
    memory, disk = _memory(), _disk()
    problems = [
        *_unmet_requirements(),
        *broken_companions(),
        *_laion_clap_problems(packages),
        *_device_problems(),
        *model_problems,
        *_space_problems(memory, disk),
    ]
    return {
        "clip2clap": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "devices": _devices(),
        "models": models,
        "memory": memory,
        "disk": disk,
        "problems": [asdict(problem) for problem in problems],
    }


def broken_companions() -> list[Problem]:
    """Find packages beside torch that do not fit it.

    transformers imports any torchvision and torchaudio it finds; one built for another torch
    (`operator torchvision::nms does not exist`) makes its CLIP and CLAP fail to import. pip does
    not notice: a CPU build and a CUDA build of torch bear the same version.
    """
    if _import_failure("torch"):
        return []
    problems = []
    for name in _COMPANIONS:
        if _version(name) is None:
            continue
        failure = _import_failure(name)
        if failure is None:
            continue
        problems.append(
            Problem(
                "error",
                f"{name} {_version(name)} does not fit torch {_version('torch')} ({failure}), and "
                "transformers' CLIP and CLAP cannot be imported because of it.",
                f"clip2clap works without {name}: pip uninstall {name}. To keep it, install both "
                f"from one index: pip install --force-reinstall torch {name}",
            )
        )
    return problems


def as_text(report: dict[str, Any]) -> str:
    """Lay a report out as plain text to paste into a bug report."""
    lines = [
        f"clip2clap {report['clip2clap']}, Python {report['python']}, {report['platform']}",
        "",
        "Packages",
        *_columns((name, version or "-") for name, version in report["packages"].items()),
        "",
        "Devices",
        *_columns((device["name"], device["what"]) for device in report["devices"]),
        "",
        "Models on disk",
        *_columns(
            (f"{model['kind']} {model['id']}", _size(model["bytes"]) if model["bytes"] else "-")
            for model in report["models"]
        ),
        "",
        "Room",
        *_columns(
            [
                ("memory", f"{_size(report['memory']['free'])} free"),
                ("disk", f"{_size(report['disk']['free'])} free for {report['disk']['folder']}"),
            ]
        ),
        "",
    ]
    if not report["problems"]:
        return "\n".join([*lines, "No problems found."])
    lines.append("Problems")
    for problem in report["problems"]:
        lines += [f"  {problem['level']}: {problem['what']}", f"    {problem['remedy']}"]
    return "\n".join(lines)


def _columns(rows: Any) -> list[str]:
    return [f"  {name:<32}{value}" for name, value in rows]


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


def _unmet_requirements() -> list[Problem]:
    """Compare the declared dependencies with the installed packages."""
    problems = []
    for line in metadata.requires("clip2clap") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None:
            what = f"{requirement.name} is not installed."
        elif not requirement.specifier.contains(version, prereleases=True):
            what = (
                f"{requirement.name} {version} is installed, "
                f"clip2clap needs {requirement.name}{requirement.specifier}."
            )
        else:
            continue
        problems.append(
            Problem(
                "error",
                what,
                f'Install it: pip install "{requirement.name}{requirement.specifier}"',
            )
        )
    for module in ("torch", "soundfile"):
        failure = _import_failure(module)
        if failure is not None and _version(module) is not None:
            problems.append(
                Problem(
                    "error",
                    f"{module} {_version(module)} is installed but cannot be imported ({failure}).",
                    f"Install it again: pip install --force-reinstall {module}",
                )
            )
    return problems


def _laion_clap_problems(packages: dict[str, str | None]) -> list[Problem]:
    numpy = packages["numpy"]
    if packages["laion-clap"] is None or numpy is None or int(numpy.split(".")[0]) < 2:
        return []
    return [
        Problem(
            "warning",
            f"laion-clap {packages['laion-clap']} needs numpy below 2, and {numpy} is installed: "
            "loading laion_clap:... fails.",
            'Install them together: pip install "clip2clap[laion-clap]"; or load CLAP through '
            "transformers, which needs no extra (--ranker laion/clap-htsat-unfused)",
        )
    ]


def _device_problems() -> list[Problem]:
    if _import_failure("torch"):
        return []
    import torch

    if shutil.which("nvidia-smi") is None or torch.cuda.is_available():
        return []
    if torch.version.cuda is None:
        what = f"There is an NVIDIA driver, but torch {torch.__version__} is built without CUDA."
        return [
            Problem(
                "warning",
                what,
                "To use the GPU, install a CUDA build of torch (https://pytorch.org/get-started).",
            )
        ]
    return [
        Problem(
            "warning",
            f"There is an NVIDIA driver, but torch {torch.__version__} finds no CUDA device.",
            "Check that nvidia-smi lists one, and that the driver is new enough for "
            f"CUDA {torch.version.cuda}.",
        )
    ]


def _devices() -> list[dict[str, Any]]:
    """List the devices, the CPU first."""
    if _import_failure("torch"):
        return []
    import torch

    # Older versions of torch do not report the CPU's name.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    name = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    bfloat16 = any(
        capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    )
    devices = [
        {
            "name": "cpu",
            "what": f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
            f"{torch.backends.cpu.get_cpu_capability()}, "
            f"bfloat16 {'in hardware' if bfloat16 else 'not in hardware'}",
            "bfloat16": bfloat16,
        }
    ]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": f"cuda:{index}",
                "what": f"{properties.name}, {_size(properties.total_memory)}",
                "bfloat16": torch.cuda.is_bf16_supported(),
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "what": "Apple GPU", "bfloat16": True})
    return devices


def _models() -> tuple[list[dict[str, Any]], list[Problem]]:
    """List the demo models and the presets with their sizes on disk."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    problems = []
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
        cached = {repo.repo_id: repo.size_on_disk for repo in repos}
    except CacheNotFound:
        cached = {}
    except OSError as error:
        cached = {}
        problems.append(
            Problem(
                "warning",
                f"The model cache cannot be read ({error}).",
                "Check its permissions, or name another folder in HF_HOME.",
            )
        )
    missing = [part for part in _DEMO_PARTS if not (DEMO_FOLDER / part).is_file()]
    if missing:
        problems.append(
            Problem(
                "error",
                f"The demo models are incomplete: {', '.join(missing)} missing in {DEMO_FOLDER}.",
                "Install clip2clap again, or name another model: image-to-audio --generator ...",
            )
        )
    models = []
    for kind, presets in PRESETS.items():
        for preset in presets.values():
            folder = Path(preset.repo_id)
            size = _folder_size(folder) if folder.is_absolute() else cached.get(preset.repo_id, 0)
            models.append({"kind": kind, "id": preset.id, "from": preset.repo_id, "bytes": size})
    return models, problems


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _memory() -> dict[str, int]:
    """Measure the memory that is free, within the container's limit where there is one."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # not in a container, or one without a limit ("max")
        return {"total": total, "free": free}
    return {"total": min(total, limit), "free": max(0, min(free, limit - used))}


def _disk() -> dict[str, Any]:
    """Measure the free disk space of the download folder."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return {"folder": str(folder), "free": shutil.disk_usage(existing).free}


def _space_problems(memory: dict[str, int], disk: dict[str, Any]) -> list[Problem]:
    problems = []
    if memory["free"] < _LOW_MEMORY:
        problems.append(
            Problem(
                "warning",
                f"Only {_size(memory['free'])} of memory are free.",
                "The demo models fit; for the real ones use --dtype bf16 and --batch-size 1.",
            )
        )
    if disk["free"] < _LOW_DISK:
        problems.append(
            Problem(
                "warning",
                f"Only {_size(disk['free'])} are free for {disk['folder']}.",
                "Real models need 1 to 6 GiB each: free some, or name another folder in HF_HOME.",
            )
        )
    return problems
