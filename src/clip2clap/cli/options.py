"""Options that several verbs share, with the reasons why a value makes no sense."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    import torch

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]

# What is read: a published data set, or a table of pairs.
Captions = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="The published data set's file, instead of --split; for wit any number.",
        rich_help_panel="Data set",
    ),
]
DataFolder = Annotated[
    Path,
    typer.Option(
        metavar="FOLDER",
        help="Where a published data set's files are, or are fetched to.",
        rich_help_panel="Data set",
    ),
]
DataSplit = Annotated[
    str, typer.Option(metavar="NAME", help="train, val or test.", rich_help_panel="Data set")
]
PairTable = Annotated[Path, typer.Argument(metavar="TABLE", help="A folder of paired embeddings.")]
Item = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Rows equal here stay on one side of the split; by default the item, file, url, "
        "caption or id.",
        rich_help_panel="Pairs",
    ),
]
Validation = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of the items held out, if there is no split column.",
        rich_help_panel="Pairs",
    ),
]
Monitor = Annotated[
    Literal["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "cosine"],
    typer.Option(
        help="The held-out figure that picks the epoch to keep.", rich_help_panel="Training"
    ),
]

# Models.
DemoModels = Annotated[
    bool,
    typer.Option("--demo", help="Take the small models that come along.", rich_help_panel="Models"),
]
EncoderDtype = Annotated[
    DtypeName, typer.Option(help="Number format of the encoders.", rich_help_panel="Models")
]

# What is written.
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files instead of choosing a free name.",
        rich_help_panel="Files",
    ),
]
OverwriteTranslator = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace another translator in FOLDER.", rich_help_panel="Running"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

# How it is done.
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


def check_counts(**counts: int | None) -> None:
    """Refuse options, by their names, that count something and say less than 1."""
    for name, count in counts.items():
        option = f"--{name.replace('_', '-')}"
        require(count is None or count >= 1, option, f"expected at least 1, got {count}.")


def check_seconds(seconds: float | None) -> None:
    """Refuse a length that is none."""
    if seconds is not None:
        possible = 0 < seconds < math.inf
        require(possible, "--seconds", f"expected a length above 0, got {seconds:g}.")


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
