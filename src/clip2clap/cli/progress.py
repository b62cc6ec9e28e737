"""Progress bars, and the report of a run."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Report of a run that generates, as `--json` prints it."""

    settings: dict[str, Any]
    """The options, with the defaults of those that were not given."""

    results: dict[str, list[dict[str, Any]]]
    """Entries of the outputs, by output type."""

    skipped: list[dict[str, Any]] = field(default_factory=list)
    """Inputs that could not be used, with the reasons."""

    interrupted: bool = False
    """Whether Ctrl-C ended the run."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of each stage in seconds."""

    def skip(self, source: Any, reason: object) -> None:
        """Add an input that could not be used, and print the reason."""
        line = one_line(reason, limit=None)
        self.skipped.append({"input": source, "reason": line})
        typer.echo(f"skipped: {line}", err=True)

    def summary(self, made: str, done: int, count: int) -> str:
        """Return a one-line summary of the outputs and the skipped inputs.

        Args:
            made: Description of the outputs.
            done: Inputs with an output.
            count: Inputs in all.
        """
        parts = [made]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if self.interrupted:
            parts.append(f"interrupted after {done + len(self.skipped)} of {count}")
        return f"{', '.join(parts)} ({self.seconds['make']:.1f} s)"

    def end(self, *, as_json: bool, summary: str | None = None) -> None:
        """Print the report, or the summary on stderr, and exit.

        Raises:
            typer.Exit: With 130 if the run was interrupted, 1 if an input was skipped.
        """
        if as_json:
            document = {
                "clip2clap": __version__,
                "settings": self.settings,
                "skipped": self.skipped,
                "interrupted": self.interrupted,
                "seconds": self.seconds,
                **self.results,
            }
            typer.echo(json.dumps(document, indent=2))
        elif summary is not None:
            typer.echo(summary, err=True)
        if self.interrupted:
            raise typer.Exit(130)
        if self.skipped:
            raise typer.Exit(1)


def stage_seconds(start: float, loaded: float) -> dict[str, float]:
    """Return the seconds of loading the models, and of the work since."""
    return {"load": round(loaded - start, 3), "make": round(time.perf_counter() - loaded, 3)}


def plain_console(width: int | None = None) -> Console:
    """Return a console for stdout that prints text as it is."""
    return Console(highlight=False, markup=False, width=width)


def progress_bar(console: Console, description: str) -> Progress:
    """Return a bar of the items that are done; it is hidden where there is no terminal."""
    return Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # On a terminal lines are printed above the bar, into a file they go as they are.
        redirect_stdout=sys.stdout.isatty(),
    )


@contextmanager
def share_bar(console: Console, description: str) -> Iterator[Callable[..., None]]:
    """Show the share of a job that is done; hidden where there is no terminal.

    Yields:
        Function of the share that is done, and of a new description if that changed.
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
        task = progress.add_task(description, total=1.0)

        def advance(share: float, description: str | None = None) -> None:
            progress.update(task, completed=share, description=description)

        yield advance
