"""Options that several verbs share, with the reasons why a value makes no sense."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]

Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel="Running"),
]
Dtype = Annotated[
    DtypeName,
    typer.Option(
        help="Number format of the generator; auto takes the fastest that is safe.",
        rich_help_panel="Running",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Seed = Annotated[
    int,
    typer.Option(metavar="N", help="The same seed gives the same result."),
]


class OptionError(ValueError):
    """An option whose value makes no sense: one line that names it and gives the reason."""


def require(condition: bool, option: str, message: str) -> None:
    """Refuse an option's value with the reason.

    Raises:
        OptionError: If `condition` does not hold.
    """
    if not condition:
        raise OptionError(f"{option}: {message}")


def check_seed(seed: int) -> None:
    """Refuse a seed that torch's generators do not take."""
    require(0 <= seed < 2**62, "--seed", f"expected a number from 0 to 2**62 - 1, got {seed}.")


def parse_size(size: str) -> tuple[int, int]:
    """Take `WxH` apart; a single number is a square.

    Returns:
        Width and height in pixels.

    Raises:
        OptionError: If it is neither.
    """
    width, _, height = size.lower().partition("x")
    try:
        shape = int(width), int(height or width)
    except ValueError:
        shape = 0, 0
    if min(shape) < 1:
        raise OptionError(f"--size: expected WxH such as 384x256, or one number, got {size!r}.")
    return shape


def choose_device(name: str) -> "torch.device":
    """Find the device a user named, or the best there is for `auto`.

    Raises:
        OptionError: If there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise OptionError(f"--device: expected auto, cpu, cuda, cuda:N or mps, got {name!r}.")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        require(
            count > 0,
            "--device",
            f"torch {torch.__version__} finds no CUDA device here. Use --device cpu; "
            "`clip2clap doctor` tells more.",
        )
        require(
            (device.index or 0) < count, "--device", f"there are {count} CUDA devices, from cuda:0."
        )
    if device.type == "mps":
        require(
            torch.backends.mps.is_available(), "--device", "there is no Apple GPU here. Use cpu."
        )
    return device


def choose_dtype(name: DtypeName, device: "torch.device") -> 'torch.dtype | Literal["auto"]':
    """Find the number format a user named, or the fastest that is safe on the device for `auto`.

    Raises:
        OptionError: If the device cannot use it.
    """
    import torch

    require(
        (name, device.type) != ("fp16", "cpu"),
        "--dtype",
        "fp16 is slow and overflows on the processor. Use bf16, fp32 or auto.",
    )
    if name != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return "auto" if device.type == "cpu" else torch.float32
