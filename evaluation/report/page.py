"""Report of an evaluation: one HTML file without links to others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from clip2clap.core.files import as_path
from clip2clap.core.output_folder import writing_to
from clip2clap.core.version import __version__
from clip2clap.evaluation.report.embeddings import embedding_sections
from clip2clap.evaluation.report.tables import generation_sections
from clip2clap.evaluation.results import Results
from clip2clap.report.page import write_page

PAGE_FILE = "report.html"

_STYLE = """\
  h3 { margin: 1.2rem 0 .5rem; font-size: 1.1rem; }
  table { width: auto; }
  th, td { text-align: right; }
  th { font-weight: 600; }
  th:first-child, td:first-child, .words td { text-align: left; }
  td, th { vertical-align: top; }
  .words td { white-space: normal; min-width: 5rem; overflow-wrap: anywhere; }
  tr.control { color: var(--soft); }
  small { display: block; color: var(--soft); font-size: .8rem; }
  .examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr));
    gap: 1rem; }
  .examples figure { margin: 0; }
  .examples img { width: 100%; height: 9rem; object-fit: contain; border-radius: .375rem; }
  .examples audio { width: 100%; }
  figcaption { font-size: .9rem; overflow-wrap: anywhere; }
"""
_FOOTER = (
    f"Written by clip2clap {escape(__version__)}. The file results.json beside this page holds "
    "every metric with its interval, results.npz the ranks of every row; "
    "<code>clip2clap evaluate --compare</code> tests which differences are significant."
)


@dataclass(frozen=True)
class Illustrations:
    """Content of a report beside the metrics.

    `clouds` are the points of `EmbeddingEvaluation.clouds`, `texts` the text of each evaluated row,
    and `examples` the sections of generated files.
    """

    clouds: Mapping[str, Any] | None = None
    texts: Sequence[str] = ()
    examples: Sequence[str] = ()


def write_evaluation_page(
    results: Results, folder: str | Path, illustrations: Illustrations | None = None
) -> Path:
    """Write the report of an evaluation, `report.html`; a file of that name is replaced.

    Args:
        results: Results of the evaluation.
        folder: Folder of the report; created if it does not exist.
        illustrations: Plots' points, texts and examples.

    Returns:
        Path of the report.

    Raises:
        UserError: If the folder cannot be written to.

    Examples:
        >>> from clip2clap.evaluation import Results, write_evaluation_page
        >>> results = Results({"format": 2, "embeddings": None, "audio": None, "images": None}, {})
        >>> write_evaluation_page(results, "report").name
        'report.html'
    """
    shown = illustrations or Illustrations()
    sections = []
    if results.metrics["embeddings"] is not None:
        sections += embedding_sections(results, clouds=shown.clouds, texts=shown.texts)
    for level in ("audio", "images"):
        if results.metrics[level] is not None:
            sections += [*generation_sections(results.metrics[level], level), *shown.examples]
    path = as_path(folder) / PAGE_FILE
    with writing_to(path.parent):
        write_page(
            path,
            verb="evaluate",
            title="Evaluation",
            content="\n".join(sections),
            footer=_FOOTER,
            style=_STYLE,
        )
    return path
