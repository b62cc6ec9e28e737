"""Progress bars, and the report of a run."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from clip2clap.cli.command import name_options
from clip2clap.core.errors import UserError, one_line, printable
from clip2clap.core.version import __version__


class RunReport:
    """Report of a run, as `--json` prints it.

    Args:
        options: Options of the verb. The settings are these, and the defaults that the verb adds.

    Attributes:
        results: Entries of the outputs, or what else the verb found.
        skipped: Inputs that could not be used, with the reasons.
        interrupted: Whether Ctrl-C ended the run.
        seconds: Duration of each stage.
    """

    def __init__(self, options: Any):
        self.settings = asdict(options)
        self._declared = fields(options)
        self.results: Any = []
        self.skipped: list[dict[str, Any]] = []
        self.interrupted = False
        self.seconds: dict[str, float] = {}
        self._as_json = self.settings.pop("as_json")
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._last, 3)
        self._last = now

    def skip(self, source: Any, reason: object) -> None:
        """Add an input that could not be used, and print the reason."""
        if isinstance(reason, UserError):
            reason = name_options(reason, self._declared)
        line = one_line(reason, limit=None)
        self.skipped.append({"input": source, "reason": line})
        note(f"skipped: {line}")

    def warn_of_misfit(self, source: str, fits: float | None, what: str) -> None:
        """Print a warning if nothing fits an input, unless the report is printed as JSON.

        Args:
            source: Input.
            fits: Probability that what was found fits, None if it is not known.
            what: Name of what was looked for.
        """
        from clip2clap.embeddings.encoders.speech import FITS

        if fits is not None and fits < FITS and not self._as_json:
            note(f"{source}: warning: no {what} fits well (probability {fits:.2f})")

    def show(self, *lines: Any) -> None:
        """Print text or tables on stdout, unless the report is printed as JSON."""
        if not self._as_json:
            # A file has wide lines, and names as they are.
            terminal = sys.stdout.isatty()
            out = Console(highlight=False, markup=False, width=None if terminal else 160)
            for line in lines:
                if isinstance(line, Table):
                    out.print(line)
                else:
                    text = "\n".join(map(printable, line.split("\n"))) if terminal else line
                    _print(text, sys.stdout)

    def summarize(self, made: str, count: int, *, done: int | None = None) -> None:
        """Print a one-line summary of the outputs and the skipped inputs on stderr.

        Args:
            made: Description of the outputs.
            count: Inputs in all.
            done: Inputs that are done; by default those of the report.
        """
        parts = [made]
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        if self.interrupted:
            done = len(self.results) + len(self.skipped) if done is None else done
            parts.append(f"interrupted after {done} of {count}")
        if not self._as_json:
            note(f"{', '.join(parts)} ({self.seconds['generate']:.1f} s)")

    def end(self, results: Any = None) -> None:
        """Print the report if it is wanted as JSON, and exit.

        Raises:
            typer.Exit: With 130 if the run was interrupted, 1 if an input was skipped.
        """
        if self._as_json:
            typer.echo(
                json_document(
                    settings=self.settings,
                    results=self.results if results is None else results,
                    skipped=self.skipped,
                    interrupted=self.interrupted,
                    seconds=self.seconds,
                )
            )
        if self.interrupted:
            raise typer.Exit(130)
        if self.skipped:
            raise typer.Exit(1)


def note(line: str) -> None:
    """Print a line on stderr, above a bar if one is shown."""
    _print(printable(line), sys.stderr)


def _print(text: str, stream: Any) -> None:
    # While a bar is shown, rich replaces the streams, which typer.echo looks past unless they are
    # named. Rich's replacement writes on the bar's terminal, where the lines of a pipe do not go.
    if not stream.isatty():
        stream = getattr(stream, "rich_proxied_file", stream)
    typer.echo(text, file=stream, color=True)


def is_main_process() -> bool:
    """Return True in the one of accelerate's processes that reports."""
    from accelerate import PartialState

    return PartialState().is_main_process


def json_document(**entries: Any) -> str:
    """Return a JSON document with the versions of its schema and of clip2clap.

    Numbers that are not finite are null, as JSON knows no others.
    """
    document = {"version": 1, "clip2clap": __version__, **entries}
    return json.dumps(_finite(document), indent=2, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _PlainTable(Table):
    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(printable(each) for each in cells), **options)


def plain_table(title: str, *titles: str) -> Table:
    """Return a table without lines, of numbers to the right of the first column."""
    table = _PlainTable(Column(title, overflow="fold"), box=None, pad_edge=False)
    for each in titles:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def progress_bar(description: str) -> Progress:
    """Return a bar of the items that are done; it is hidden where there is no terminal."""
    return _bar(TextColumn(description), BarColumn(), MofNCompleteColumn())


@contextmanager
def share_bar(description: str) -> Iterator[Callable[..., None]]:
    """Show the share of a job that is done; hidden where there is no terminal.

    Yields:
        Function of the share that is done, and of a new description if that changed.
    """
    with _bar(TextColumn("{task.description}"), BarColumn()) as progress:
        task = progress.add_task(description, total=1.0)

        def advance(share: float, description: str | None = None) -> None:
            progress.update(task, completed=share, description=description)

        yield advance


def _bar(*columns: ProgressColumn) -> Progress:
    # The terminal wraps lines, so that a path is copied from it whole.
    console = Console(stderr=True, soft_wrap=True)
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        # On a terminal lines are printed above the bar, into a file they go as they are.
        redirect_stdout=sys.stdout.isatty(),
    )
