"""The verb `doctor`."""

import json

import typer

from clip2clap.cli.options.common import Json


def doctor(run: Json) -> None:
    """Print versions, devices, models on disk and problems, to paste into a bug report.

    The exit code is 1 if there is an error that would make other commands fail.
    """
    from clip2clap.cli.diagnostics import as_text, examine

    report = examine()
    typer.echo(json.dumps(report, indent=2) if run.as_json else as_text(report))
    if any(problem["level"] == "error" for problem in report["problems"]):
        raise typer.Exit(1)
