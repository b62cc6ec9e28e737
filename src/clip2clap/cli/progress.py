"""What verbs share while they run: the bars, and the report of a run."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from clip2clap.core.errors import one_line
from clip2clap.core.version import __version__


@dataclass
class RunReport:
    """What a verb that generates did, as `--json` gives it."""

    clip2clap: str = field(default=__version__, init=False)
    """The version."""

    settings: dict[str, Any]
    """The options, with what stood for those that were left out."""

    skipped: list[dict[str, Any]] = field(default_factory=list)
    """The inputs that could not be used, with the reasons."""

    interrupted: bool = False
    """Whether Ctrl-C ended the run."""

    seconds: dict[str, float] = field(default_factory=dict)
    """How long each stage took."""

    def skip(self, source: Any, reason: object) -> None:
        """Note an input that could not be used, and say so."""
        line = one_line(reason, limit=None)
        self.skipped.append({"input": source, "reason": line})
        typer.echo(f"skipped: {line}", err=True)

    def summary(self, made: str, done: int, count: int) -> str:
        """Say in a line what was made, with what was not.

        Args:
            made: What was made.
            done: Inputs of which something was made.
            count: Inputs in all.
        """
        parts = [made]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if self.interrupted:
            parts.append(f"interrupted after {done + len(self.skipped)} of {count}")
        return f"{', '.join(parts)} ({self.seconds['make']:.1f} s)"

    def end(self, *, as_json: bool, summary: str | None = None) -> None:
        """Print the report, or the summary on stderr, and end the verb with its exit code.

        Raises:
            typer.Exit: With 130 if the run was interrupted, 1 if an input was skipped.
        """
        if as_json:
            typer.echo(json.dumps(asdict(self), indent=2))
        elif summary is not None:
            typer.echo(summary, err=True)
        if self.interrupted:
            raise typer.Exit(130)
        if self.skipped:
            raise typer.Exit(1)


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


@contextmanager
def share_bar(console: Console, doing: str) -> Iterator[Callable[..., None]]:
    """Show how much of a job is done; nothing where there is no terminal.

    Yields:
        What is called with the share that is done, and with what is being done if that changed.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(doing, total=1.0)

        def advance(share: float, doing: str | None = None) -> None:
            progress.update(task, completed=share, description=doing)

        yield advance
