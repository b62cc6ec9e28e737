"""Norm report as files: JSON, a chart, and a self-contained web page."""

import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from clip2clap.core.files import as_path, replacing
from clip2clap.core.output_folder import writing_to
from clip2clap.embeddings.norms.measure import (
    UNIT_TOLERANCE,
    ColumnReport,
    NormReport,
    NormStatistics,
)
from clip2clap.report.page import card, picture, table, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lists of ids may be long.
_STYLE = """\
  td:last-child { min-width: 6rem; white-space: normal; overflow-wrap: anywhere; }
"""
_CONTENT = Template("""\
  <p>$story</p>
  $picture
  <h2>Norms</h2>
  $norms
  <h2>Distance between the columns</h2>
  <p>The modality gap between two columns of unit-norm vectors has two parts: the distance between
  their means, which subtracting them closes, and what remains between the two vectors of a row, the
  distribution gap, which predicts how well one modality can stand for the other. Both, and the
  angle, are meaningful only in the joint space of one model.</p>
  $gaps
  <h2>Near-duplicates</h2>
  <p>Rows with a cosine similarity of $cosine and more. Keep a group on one side of a split.</p>
  $duplicates""")
_FOOTER = (
    "Written by clip2clap norms. The file norms.json beside this page holds all values, including "
    "the mean and the standard deviation of every dimension."
)


def write_norm_report(report: NormReport, folder: str | Path) -> dict[str, Path]:
    """Write a report of `measure_norms` as `norms.json`, `norms.png` and `norms.html`.

    Earlier files are replaced. Returns the three paths by suffix: "json", "png" and "html".
    """
    folder = as_path(folder)
    paths = {suffix: folder / f"norms.{suffix}" for suffix in ("json", "png", "html")}
    with writing_to(folder):
        with replacing(paths["json"]) as partial:
            partial.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        with replacing(paths["png"]) as partial:
            partial.write_bytes(png := _draw(report))
        _write_page(paths["html"], report, png)
    return paths


def verdict(column: ColumnReport) -> str:
    """Return in a few words whether the encoder's output has to be normalized."""
    if column.raw is None:
        return "raw norms not stored"
    if column.raw.share_of_unit_norm == 1:
        return "the encoder's output is unit norm"
    return "normalize the encoder's output"


def _draw(report: NormReport) -> bytes:
    """Draw one row of panels per column: raw norms, stored norms, and every dimension."""
    from clip2clap.report.charts import panels, png

    figure, rows = panels(len(report.columns), 3, 13, 3.4 * len(report.columns))
    for (name, column), (raw, stored, dimensions) in zip(report.columns.items(), rows, strict=True):
        _draw_norms(raw, column.raw, f"{name}: norms of the encoder's output")
        _draw_norms(stored, column.stored, f"{name}: norms as stored ({column.dtype})")
        _draw_dimensions(dimensions, column, f"{name}: every dimension")
    return png(figure)


def _draw_norms(axes: "Axes", norms: NormStatistics | None, title: str) -> None:
    axes.set_title(title, fontsize=10)
    if norms is None:
        axes.text(0.5, 0.5, "not stored", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    axes.stairs(norms.counts, norms.edges, fill=True, color="#4c72b0")
    if norms.edges[0] <= 1 <= norms.edges[-1]:
        axes.axvline(1, color="#c44e52", linestyle="--", linewidth=1)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel("L2 norm")
    axes.set_ylabel("Rows")


def _draw_dimensions(axes: "Axes", column: ColumnReport, title: str) -> None:
    means = np.array(column.dimension_means)
    deviations = np.array(column.dimension_standard_deviations)
    dimensions = np.arange(len(means))
    axes.set_title(title, fontsize=10)
    axes.fill_between(
        dimensions, means - deviations, means + deviations, color="#4c72b0", alpha=0.35, linewidth=0
    )
    axes.plot(dimensions, means, color="#1f3a63", linewidth=0.8)
    axes.set_xlabel("Dimension")
    axes.set_ylabel("Mean ± standard deviation")


def _write_page(path: Path, report: NormReport, png: bytes) -> None:
    models = "; ".join(f"{column} from {c.space}" for column, c in report.columns.items())
    cosines = {column.near_duplicates.cosine for column in report.columns.values()}
    text = (
        "For each column the histogram of its norms and the mean of every dimension; the table "
        "below has the values."
    )
    write_page(
        path,
        verb="norms",
        title=f"Norms of {Path(report.table).name or report.table}",
        content=_CONTENT.substitute(
            story=escape(f"{report.rows:,} rows. {models}."),
            picture=picture(png, text, label="Histograms"),
            norms=card("Norms", _norms_table(report)),
            gaps=card("Distances", _gaps_table(report)),
            cosine=", ".join(f"{cosine:g}" for cosine in sorted(cosines)),
            duplicates=card("Near-duplicates", _duplicates_table(report)),
        ),
        footer=_FOOTER,
        style=_STYLE,
    )


def _norms_table(report: NormReport) -> str:
    rows = []
    for name, column in report.columns.items():
        for what, norms in (("encoder's output", column.raw), ("as stored", column.stored)):
            if norms is None:
                rows.append([name, what, "not stored", *[""] * 6])
                continue
            middle = (norms.quantiles[share] for share in ("0.05", "0.5", "0.95"))
            spread = (norms.mean, norms.standard_deviation, norms.minimum, *middle, norms.maximum)
            cells = [f"{value:.5g}" for value in spread]
            rows.append([name, what, *cells, f"{norms.share_of_unit_norm:.1%}"])
    verdicts = "; ".join(f"{name}: {verdict(c)}" for name, c in report.columns.items())
    header = ["Column", "Norms of", "Mean", "Std. dev.", "Min", "5 %", "Median", "95 %", "Max"]
    return table(verdicts, [*header, f"1 ± {UNIT_TOLERANCE:g}"], rows)


def _gaps_table(report: NormReport) -> str:
    rows = [
        [
            " and ".join(gap.columns),
            "yes" if gap.same_model else "no",
            "undefined" if gap.angle is None else f"{gap.angle:.1f}°",
            f"{gap.distance:.3f}",
            f"{gap.distribution_distance:.3f}",
        ]
        for gap in report.gaps
    ]
    spread = "; ".join(
        f"{name}: norm of the mean {column.mean_resultant_length:.3f}"
        for name, column in report.columns.items()
    )
    header = ["Columns", "One model", "Angle between means", "Distance between means"]
    header.append("Distribution gap")
    return table(spread, header, rows)


def _duplicates_table(report: NormReport) -> str:
    rows = []
    totals = []
    for name, column in report.columns.items():
        found = column.near_duplicates
        totals.append(f"{name}: {found.rows:,} rows in {found.groups:,} groups")
        for group in found.largest:
            more = ", …" if group["rows"] > len(group["ids"]) else ""
            rows.append([name, f"{group['rows']:,}", ", ".join(group["ids"]) + more])
    return table("; ".join(totals), ["Column", "Rows", "Ids"], rows)
