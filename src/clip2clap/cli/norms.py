"""`clip2clap norms`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.options import Json
from clip2clap.cli.progress import share_bar

if TYPE_CHECKING:
    from clip2clap.embeddings.norms.measure import NormReport, NormStatistics


def norms(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="A folder of embeddings.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where norms.json, norms.png and norms.html go; by default TABLE-norms.",
        ),
    ] = None,
    bins: Annotated[int, typer.Option(metavar="N", help="Bins of the histograms.")] = 50,
    cosine: Annotated[
        float,
        typer.Option(metavar="X", help="Similarity from which two rows are near-duplicates."),
    ] = 0.999,
    as_json: Json = False,
) -> None:
    """Report the norms of a table's embeddings, its modality gap and near-duplicate rows."""
    from clip2clap.embeddings.norms.measure import measure_norms
    from clip2clap.embeddings.norms.report import verdict, write_norm_report
    from clip2clap.embeddings.table.reader import EmbeddingTable

    opened = EmbeddingTable.open(table)
    with share_bar(Console(stderr=True), "Measuring") as advance:
        report = measure_norms(opened, bins=bins, near_duplicate_cosine=cosine, on_progress=advance)
    folder = opened.folder.absolute()
    paths = write_norm_report(report, output or folder.with_name(f"{folder.name}-norms"))
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    out = Console(highlight=False, markup=False)
    out.print(_table(report))
    for name, column in report.columns.items():
        out.print(f"{name}: {verdict(column)}")
    for gap in report.gaps:
        angle = "undefined" if gap.angle is None else f"{gap.angle:.1f} degrees"
        space = "joint space" if gap.same_model else "two models, so unrelated axes"
        out.print(f"{' and '.join(gap.columns)}: angle between means {angle} ({space})")
    out.print(f"{report.rows} rows. The whole report: {paths['html']}", soft_wrap=True)


def _table(report: "NormReport") -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for title in ("norm", "at 1", "raw norm", "at 1", "near-duplicates"):
        table.add_column(title, justify="right")
    for name, column in report.columns.items():
        table.add_row(
            name,
            *_figures(column.stored),
            *(("", "") if column.raw is None else _figures(column.raw)),
            str(column.near_duplicates.rows),
        )
    return table


def _figures(norms: "NormStatistics") -> tuple[str, str]:
    return f"{norms.mean:.4g} ± {norms.standard_deviation:.2g}", f"{norms.share_of_unit_norm:.1%}"
