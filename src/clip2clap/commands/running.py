"""What the verbs that generate share while they run: the solver by its name, and the bar."""

import sys
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SchedulerName = Literal["default", "ddim", "unipc", "euler", "pndm"]
_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


def use_scheduler(pipeline: Any, name: SchedulerName) -> None:
    """Give a pipeline the solver that a user named, on its own noise schedule."""
    if name == "default":
        return
    import diffusers

    from clip2clap.inference.generator_checkpoint import quietly

    solver = getattr(diffusers, _SCHEDULERS[name])
    # DDIM's and PNDM's usual spacing, which AudioLDM and Stable Diffusion were published with; the
    # default solver's own does not suit them.
    spacing = {"timestep_spacing": "leading"} if name in ("ddim", "pndm") else {}
    with quietly():
        pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **spacing)


def progress_bar(console: Console, doing: str) -> Progress:
    """Make the bar that shows how many items are done; nothing where there is no terminal."""
    return Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # What goes to a terminal is shown above the bar, what goes into a file goes there.
        redirect_stdout=sys.stdout.isatty(),
    )
