"""Checks and conversions of option values. torch is imported only where it is needed."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clip2clap.cli.options.common import DtypeName
from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, is_url
from clip2clap.core.presets import is_hub_id

_DATA_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".tar", ".tgz", ".gz", ".npy")


def require(condition: object, param: str, message: str) -> None:
    """Raise `UserError` about a parameter if a condition does not hold."""
    if not condition:
        raise UserError(message, param=param)


def check_exists(path: str | Path, param: str) -> None:
    """Raise `UserError` if a file or folder does not exist."""
    require(as_path(path).exists(), param, f"{path} does not exist.")


def check_model_folder(output: Path) -> None:
    """Raise `UserError` if models cannot be written into a folder."""
    require(not output.is_file(), "output", f"{output} is a file, not a folder.")
    try:
        str(output.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{output} is not UTF-8, and safetensors writes to no such path. Name another folder.",
            param="output",
        ) from error


def check_image(source: str | None, param: str) -> None:
    """Raise `UserError` if an image file does not exist; URLs are not opened."""
    if source is not None and not is_url(source):
        check_exists(source, param)


def check_data(names: Sequence[str], param: str) -> None:
    """Raise `UserError` if a data set is named like a file or folder that does not exist."""
    for name in names:
        is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        is_path = is_path or Path(name).suffix in _DATA_SUFFIXES
        if is_path and not is_url(name) and not set(name) & set("*?[{"):
            check_exists(name, param)


def check_translator(name: str | None, param: str = "translator") -> None:
    """Raise `UserError` if a name is neither a folder, nor a hub id, nor that of a demo."""
    if name is None or as_path(name).exists() or name in ("demo", "demo-back"):
        return
    hint = "Give a folder, a hub id (owner/name), demo or demo-back."
    require(is_hub_id(name), param, f"There is no folder {name}. {hint}")


def parse_size(size: str, param: str) -> tuple[int, int]:
    """Return width and height of `WxH` in pixels; a single number is a square.

    Raises:
        UserError: If it is neither.
    """
    width, _, height = size.lower().partition("x")
    try:
        shape = int(width), int(height or width)
    except ValueError:
        shape = 0, 0
    expected = f"expected WxH such as 384x256, or one number, got {size!r}."
    require(min(shape) >= 1, param, expected)
    return shape


def parse_weighted(
    items: Sequence[str] | None, param: str, example: str = "FILE:WEIGHT such as dog.wav:0.7"
) -> list[tuple[str, float]]:
    """Return files or texts with their weights, 1 for those without one.

    Args:
        items: Values such as `dog.wav:0.7`.
        param: Name of the option's field.
        example: Expected value, for the message.

    Raises:
        UserError: If a weight is no number.
    """
    parsed = []
    for item in items or ():
        name, colon, weight = item.rpartition(":")
        if not colon or as_path(item).exists():
            parsed.append((item, 1.0))
            continue
        try:
            parsed.append((name, float(weight)))
        except ValueError as error:
            raise UserError(f"expected {example}, got {item!r}.", param=param) from error
    return parsed


def check_device(name: str, dtype: DtypeName | None) -> None:
    """Check the names of a device and a number format without importing torch.

    Raises:
        UserError: If there is no such device, or it cannot use the number format.
    """
    require(
        re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name),
        "device",
        f"expected auto, cpu, cuda, cuda:N or mps, got {name!r}.",
    )
    require(
        (name, dtype) != ("cpu", "fp16"),
        "dtype",
        "fp16 is slow and overflows on the CPU. Use bf16, fp32 or auto.",
    )


def ray_config(options: Any) -> Any:
    """Return the cluster that `--engine ray` names, or None for this process.

    Raises:
        UserError: If there are options of a cluster without it, or Ray is not installed.
    """
    from clip2clap.core.actors import RayConfig, require_ray

    for param in ("ray_address", "actors"):
        given = getattr(options, param)
        require(options.engine == "ray" or given is None, param, "goes with --engine ray.")
    if options.engine != "ray":
        return None
    require_ray()
    return RayConfig(options.ray_address, options.actors)


def choose_run_device(options: Any) -> Any:
    """Return the device that a verb's models run on; it is not checked if it is a cluster's.

    Raises:
        UserError: If a device of this machine is not available.
    """
    import torch

    if getattr(options, "low_memory", False):
        return torch.device("cpu")
    if getattr(options, "ray_address", None) is not None and options.device != "auto":
        return torch.device(options.device)
    return choose_device(options.device)


def choose_device(name: str) -> Any:
    """Return the device of a name, for `auto` the fastest one that is available.

    Raises:
        UserError: If the device is not available.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count()
        require(
            count > 0,
            "device",
            f"torch {torch.__version__} finds no CUDA device. Use --device cpu; "
            "`clip2clap doctor` lists the devices.",
        )
        require(
            (device.index or 0) < count, "device", f"there are {count} CUDA devices, from cuda:0."
        )
    if device.type == "mps":
        require(torch.backends.mps.is_available(), "device", "no Apple GPU is available. Use cpu.")
    return device


def choose_dtype(name: DtypeName | None, device: Any) -> Any:
    """Return the number format of a name, for `auto` the fastest one that is safe on the device.

    Raises:
        UserError: If the device cannot use it.
    """
    import torch

    check_device(device.type, name)
    if name not in (None, "auto"):
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[str(name)]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return "auto" if device.type == "cpu" else torch.float32


def check_index(folder: Path) -> None:
    """Check that a folder holds an index.

    Raises:
        UserError: With the parameter, if it does not.
    """
    path = as_path(folder)
    require(path.exists(), "index", f"{folder} does not exist.")
    fix = "Make one with clip2clap index."
    holds = (path / "index.json").is_file()
    require(holds, "index", f"{folder} holds no index (no index.json). {fix}")
