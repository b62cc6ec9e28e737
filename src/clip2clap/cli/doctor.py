"""`clip2clap doctor`."""

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Look the installation over: the text to paste into a bug report.

    Ends with exit code 1 if it finds an error, which would make other commands fail.
    """
    from clip2clap.cli.diagnostics import as_text, examine

    report = examine()
    typer.echo(json.dumps(report, indent=2) if as_json else as_text(report))
    if any(problem["level"] == "error" for problem in report["problems"]):
        raise typer.Exit(1)
