"""Report of a sweep as one self-contained web page: leaderboard and learning curves."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from clip2clap.report.charts import panels, plain_text, png
from clip2clap.report.page import card, picture, table, write_page
from clip2clap.training.report import SweepResult

_CONTENT = Template("""\
  <p>$story</p>
  <h2>Leaderboard</h2>
  $leaderboard
  <h2>Learning curves</h2>
  <p>Left, $monitor on held-out pairs; a dot marks the epoch that was kept. Right, for each loss,
  training (dashed) and held-out pairs (solid).</p>
  $picture""")
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
    text = "Learning curves of every model; results.csv has the metrics."
    curves = picture(_curves(trained, monitor), text, label="Learning curves") if trained else ""
    write_page(
        path,
        verb="sweep",
        title=f"Sweep {path.resolve().parent.name}",
        content=_CONTENT.substitute(
            story=escape(story),
            leaderboard=card("Leaderboard", _leaderboard(trained, monitor)),
            monitor=escape(monitor),
            picture=curves,
        ),
        footer=_FOOTER,
    )


def _leaderboard(results: Sequence[SweepResult], monitor: str) -> str:
    tables = list(dict.fromkeys(table for result in results for table in result.held_out))
    header = ["Model", "Data", "Hidden", "Loss", "Pairs", "Epoch", "Seconds"]
    header += ["R@1", "R@5", "R@10", "MRR", "Median rank", "Cosine", "R@10 by chance"]
    header += [f"R@10 on {table}" for table in tables]
    rows = []
    ranked = [(result, result.report) for result in results if result.report is not None]
    for result, report in sorted(ranked, key=lambda pair: -pair[1].metrics[monitor]):
        metrics = report.metrics
        cells = [
            result.name,
            result.data,
            str(report.settings["hidden_size"]),
            str(report.settings["loss"]),
            f"{report.pairs['train']:,}",
            f"{report.best_epoch} of {report.epochs_run}",
            f"{report.seconds:.1f}",
            *(f"{metrics[name]:.3f}" for name in ("recall_at_1", "recall_at_5", "recall_at_10")),
            f"{metrics['mrr']:.3f}",
            f"{metrics['median_rank']:.1f}",
            f"{metrics['cosine']:.3f}",
            f"{report.shuffled_pairs['recall_at_10']:.3f}",
            *(f"{result.held_out[table]['recall_at_10']:.3f}" for table in tables),
        ]
        rows.append(cells)
    caption = (
        f"Sorted by {monitor}. The first metrics are on a model's own held-out pairs, which "
        "depend on its data; the columns “on” a table compare all models."
    )
    return table(caption, header, rows)


def _curves(results: Sequence[SweepResult], monitor: str) -> bytes:
    """Plot one row per data set: the monitor, then the curves of each loss."""
    trained = [(result, result.report) for result in results if result.report is not None]
    data_sets = list(dict.fromkeys(result.data for result, _ in trained))
    losses = list(dict.fromkeys(report.settings["loss"] for _, report in trained))
    size = 4.2 * (1 + len(losses)), 3.2 * len(data_sets)
    figure, grid = panels(len(data_sets), 1 + len(losses), *size)
    for row, data in zip(grid, data_sets, strict=True):
        row[0].set_title(plain_text(f"{data}: {monitor}"), fontsize=10)
        for axes, loss in zip(row[1:], losses, strict=True):
            axes.set_title(plain_text(f"{data}: {loss}"), fontsize=10)
        for result, report in trained:
            if result.data != data:
                continue
            epochs = [record.epoch for record in report.history]
            scores = [record.validation[monitor] for record in report.history]
            label = result.name.removeprefix(f"{data}-")
            (line,) = row[0].plot(epochs, scores, linewidth=1, label=plain_text(label))
            if report.best_epoch is not None:
                row[0].plot(
                    report.best_epoch, scores[report.best_epoch - 1], "o", color=line.get_color()
                )
            axes = row[1 + losses.index(report.settings["loss"])]
            for values, style in (
                ([record.train_loss for record in report.history], "--"),
                ([record.validation_loss for record in report.history], "-"),
            ):
                axes.plot(epochs, values, style, linewidth=1, color=line.get_color())
        row[0].legend(fontsize=7)
        for axes in row:
            axes.set_xlabel("Epoch")
    return png(figure)
