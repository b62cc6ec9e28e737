"""The verb `norms`."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_exists
from clip2clap.cli.options.common import Json, Output, TableInput
from clip2clap.cli.options.data import NormOptions
from clip2clap.cli.progress import plain_console, share_bar

if TYPE_CHECKING:
    from clip2clap.embeddings.norms.measure import NormReport, NormStatistics


@dataclass(frozen=True, kw_only=True)
class NormRun(NormOptions, Output, Json):
    """Options of `norms`."""


def norms(read: TableInput, run: NormRun) -> None:
    """Report the norms of a table's embeddings, its modality gap and near-duplicate rows."""
    check_exists(read.table, "table")

    from clip2clap.embeddings.norms.measure import measure_norms
    from clip2clap.embeddings.norms.report import verdict, write_norm_report
    from clip2clap.embeddings.table.reader import EmbeddingTable

    table = EmbeddingTable.open(read.table)
    with share_bar(Console(stderr=True), "Measuring") as advance:
        report = measure_norms(
            table, bins=run.bins, near_duplicate_cosine=run.cosine, on_progress=advance
        )
    folder = table.folder.absolute()
    paths = write_norm_report(report, run.output or folder.with_name(f"{folder.name}-norms"))
    if run.as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    out = plain_console()
    out.print(_table(report))
    for name, column in report.columns.items():
        out.print(f"{name}: {verdict(column)}")
    for gap in report.gaps:
        angle = "undefined" if gap.angle is None else f"{gap.angle:.1f} degrees"
        space = "joint space" if gap.same_model else "two models, so unrelated axes"
        out.print(f"{' and '.join(gap.columns)}: angle between means {angle} ({space})")
    out.print(f"{report.rows} rows. Report: {paths['html']}", soft_wrap=True)


def _table(report: "NormReport") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("norm", "at 1", "raw norm", "at 1", "near-duplicates"):
        table.add_column(title, justify="right")
    for name, column in report.columns.items():
        table.add_row(
            name,
            *_cells(column.stored),
            *(("", "") if column.raw is None else _cells(column.raw)),
            str(column.near_duplicates.rows),
        )
    return table


def _cells(norms: "NormStatistics") -> tuple[str, str]:
    return f"{norms.mean:.4g} ± {norms.standard_deviation:.2g}", f"{norms.share_of_unit_norm:.1%}"
