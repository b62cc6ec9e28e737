"""The verb `doctor`."""

import typer

from clip2clap.cli.options.common import Json
from clip2clap.cli.progress import RunReport
from clip2clap.core.version import __version__


def doctor(options: Json) -> None:
    """Print versions, devices, models on disk and problems, to paste into a bug report.

    The exit code is 1 if there is an error that would make other commands fail.
    """
    from clip2clap.cli.diagnostics import diagnose, format_report

    report, found = RunReport(options), diagnose()
    report.show(format_report(found, __version__))
    report.end(found)
    if any(problem["level"] == "error" for problem in found["problems"]):
        raise typer.Exit(1)
