"""The verb `norms`."""

from typing import Any

from rich.table import Table

from clip2clap.cli.checks import check_exists
from clip2clap.cli.options.data import Norms
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, plain_table, share_bar


def norms(options: Norms) -> None:
    """Report the norms of a table's embeddings, its modality gap and near-duplicate rows."""
    check_exists(options.table, "table")

    from clip2clap.embeddings.norms.measure import measure_norms
    from clip2clap.embeddings.norms.report import verdict, write_norm_report
    from clip2clap.embeddings.table.reader import EmbeddingTable

    report = RunReport(options)
    table = EmbeddingTable.open(options.table)
    folder = table.folder.absolute()
    output = options.output or folder.with_name(f"{folder.name}-norms")
    keep_others_out(output)
    bins, cosine = options.bins, options.cosine
    with share_bar("Measuring") as advance:
        measured = measure_norms(
            table, bins=bins, near_duplicate_cosine=cosine, on_progress=advance
        )
    paths = write_norm_report(measured, output)
    report.show(_table(measured))
    for name, column in measured.columns.items():
        report.show(f"{name}: {verdict(column)}")
    for gap in measured.gaps:
        angle = "undefined" if gap.angle is None else f"{gap.angle:.1f} degrees"
        space = "joint space" if gap.same_model else "two models, so unrelated axes"
        report.show(
            f"{' and '.join(gap.columns)}: angle between means {angle}, distance "
            f"{gap.distance:.3f}, distribution gap {gap.distribution_distance:.3f} ({space})"
        )
    report.show(f"{measured.rows} rows. Report: {paths['html']}")
    report.end(measured.to_dict())


def _table(report: Any) -> Table:
    table = plain_table("", "norm", "at 1", "raw norm", "at 1", "near-duplicates")
    for name, column in report.columns.items():
        table.add_row(
            name,
            *_cells(column.stored),
            *(("", "") if column.raw is None else _cells(column.raw)),
            str(column.near_duplicates.rows),
        )
    return table


def _cells(norms: Any) -> tuple[str, str]:
    return f"{norms.mean:.4g} ± {norms.standard_deviation:.2g}", f"{norms.share_of_unit_norm:.1%}"
