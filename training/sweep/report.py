"""Report of a sweep as one self-contained web page: leaderboard and learning curves."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from clip2clap.report.charts import learning_curves
from clip2clap.report.page import card, picture, table, write_page
from clip2clap.training.report import SweepResult

# By title, the format of a row of results.csv.
_COLUMNS = {
    "Model": "{name}",
    "Hidden": "{hidden_size}",
    "Loss": "{loss}",
    "Pairs": "{train_pairs:,}",
    "Epoch": "{best_epoch} of {epochs_run}",
    "Seconds": "{seconds:.1f}",
    "R@1": "{recall_at_1:.3f}",
    "R@5": "{recall_at_5:.3f}",
    "R@10": "{recall_at_10:.3f}",
    "MRR": "{mrr:.3f}",
    "Median rank": "{median_rank:.1f}",
    "Cosine": "{cosine:.3f}",
    "R@10 by chance": "{chance_recall_at_10:.3f}",
}
_FOOTER = (
    "Written by clip2clap sweep. results.csv beside this page holds all metrics, and each model's "
    "folder its training.json with all epochs."
)


def write_sweep_page(path: Path, results: Sequence[SweepResult], *, monitor: str) -> None:
    """Write the page; `monitor` picked the epochs and sorts the leaderboard."""
    trained = [result for result in results if result.report is not None]
    diverged = [result.name for result in results if result.report is None]
    story = f"{len(trained)} translators of {len(results)}."
    if diverged:
        story += f" Diverged, try a lower learning rate: {', '.join(diverged)}."
    parts = [
        f"<p>{escape(story)}</p>",
        "<h2>Leaderboard</h2>",
        *_leaderboard(trained, monitor),
        "<h2>Learning curves</h2>",
        f"<p>Left, training (dotted) and held-out loss; right, {escape(monitor)} on held-out "
        "pairs. A dot marks the epoch that was kept.</p>",
        *_curves(trained, monitor),
    ]
    write_page(
        path,
        verb="sweep",
        title=f"Sweep {path.resolve().parent.name}",
        content="\n".join(parts),
        footer=_FOOTER,
    )


def _leaderboard(results: Sequence[SweepResult], monitor: str) -> list[str]:
    """Return a table of metrics on each model's own pairs, and one of all models on each table."""
    tables = list(dict.fromkeys(table for result in results for table in result.held_out))
    ranked = sorted((result.row() for result in results), key=lambda row: -row[monitor])
    own = [[text.format(**row) for text in _COLUMNS.values()] for row in ranked]
    caption = f"Sorted by {monitor}, on a model's own held-out pairs, which depend on its data."
    found = [card("Leaderboard", table(caption, [*_COLUMNS], own))]
    if tables:
        rows = [
            [row["name"], *(f"{row[f'recall_at_10 on {table}']:.3f}" for table in tables)]
            for row in ranked
        ]
        columns = ["Model", *(f"R@10 on {name}" for name in tables)]
        compared = table("All models on the same held-out pairs.", columns, rows)
        found.append(card("Leaderboard by table", compared))
    return found


def _curves(results: Sequence[SweepResult], monitor: str) -> list[str]:
    """Draw the curves of each data set and loss; their values are of one size."""

    def group(row: dict[str, str]) -> tuple[str, str]:
        return row["data"], row["loss"]

    reports = {result.name: result.report for result in results if result.report is not None}
    rows = sorted((result.row() for result in results), key=group)
    pictures = []
    for (data, loss), members in groupby(rows, group):
        names = [row["name"] for row in members]
        runs = {name.removeprefix(f"{data}-"): reports[name].to_dict() for name in names}
        pictures.append(f"<h3>{escape(data)}, {escape(loss)}</h3>")
        pictures.append(picture(learning_curves(runs, monitor), "Learning curves"))
    return pictures
