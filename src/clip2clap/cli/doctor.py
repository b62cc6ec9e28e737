"""The verb `doctor`."""

from pathlib import Path

import typer

from clip2clap.cli.checks import check_exists
from clip2clap.cli.command import argument
from clip2clap.cli.options.common import Json
from clip2clap.cli.progress import RunReport
from clip2clap.core.version import __version__


class Doctor(Json):
    """Options of `doctor`."""

    table: Path | None = argument(
        "Folder of an embedding table to verify, in place of the installation.", "TABLE"
    )


def doctor(options: Doctor) -> None:
    """Print versions, devices, models on disk and problems, to paste into a bug report.

    The exit code is 1 if there is an error that would make other commands fail. With a table, its
    files are compared with the checksums that they were written with.
    """
    if options.table is not None:
        return _verify_table(options.table, options)

    from clip2clap.cli.diagnostics import diagnose, format_report

    report, found = RunReport(options), diagnose()
    report.show(format_report(found, __version__))
    report.end(found)
    if any(problem["level"] == "error" for problem in found["problems"]):
        raise typer.Exit(1)


def _verify_table(folder: Path, options: Doctor) -> None:
    check_exists(folder, "table")

    from clip2clap.embeddings.table.reader import EmbeddingTable

    report, table = RunReport(options), EmbeddingTable.open(folder)
    has_checksums, failures = table.verify(), len(table.failures())
    result = "all files are as they were written" if has_checksums else "no file is damaged"
    note = "" if has_checksums else " (written without checksums, by an older version)"
    report.show(f"{folder}: {len(table)} rows, {failures} failed; {result}{note}.")
    report.end({"rows": len(table), "failures": failures, "has_checksums": has_checksums})
