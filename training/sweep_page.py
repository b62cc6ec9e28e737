"""A sweep as one web page that holds all it shows: leaderboard and learning curves."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clip2clap.embeddings.files import replacing
from clip2clap.training.report import SweepResult

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Sweep $name</title>
<style>
  :root { --paper: #faf8f4; --card: #ffffff; --ink: #1d1b18; --soft: #5d5850; --line: #e2ddd3; }
  @media (prefers-color-scheme: dark) {
    :root {
      --paper: #161412; --card: #211e1b; --ink: #f1ede6; --soft: #b3aca1; --line: #37322d;
    }
  }
  * { box-sizing: border-box; }
  body {
    margin: 0; padding: clamp(1rem, 4vw, 3rem); background: var(--paper); color: var(--ink);
    font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  }
  main { max-width: 72rem; margin: 0 auto; }
  h1 { margin: 0 0 .5rem; font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.2; }
  h2 { margin: 2rem 0 .5rem; font-size: 1.3rem; }
  p { max-width: 46rem; }
  .card {
    margin: 0 0 1.5rem; padding: clamp(.5rem, 2vw, 1rem); background: var(--card);
    border: 1px solid var(--line); border-radius: .75rem; overflow-x: auto;
  }
  .picture { background: #ffffff; }
  .picture img { display: block; min-width: 44rem; width: 100%; height: auto; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
  th, td { padding: .35rem 1rem .35rem 0; text-align: left; border-top: 1px solid var(--line); }
  td, th { white-space: nowrap; }
  footer { margin-top: 2rem; color: var(--soft); font-size: .9375rem; }
</style>
</head>
<body>
<main>
  <h1>Sweep $name</h1>
  <p>$story</p>
  <h2>Leaderboard</h2>
  <div class="card" tabindex="0" role="region" aria-label="Leaderboard">$leaderboard</div>
  <h2>Learning curves</h2>
  <p>Left, $monitor on held-out pairs; a dot marks the epoch that was kept. Then, for each loss,
  training (dashed) and held-out pairs (solid).</p>
  <div class="card picture" tabindex="0" role="region" aria-label="Learning curves">
    <img src="$picture" alt="Learning curves of every model; results.csv holds the figures.">
  </div>
  <footer>Written by clip2clap sweep. results.csv beside this page holds every figure, and each
  model's folder its training.json with all epochs.</footer>
</main>
</body>
</html>
""")


def write_sweep_page(path: Path, results: Sequence[SweepResult], *, monitor: str) -> None:
    """Write the page; a file of the same name is replaced.

    Args:
        path: The page.
        results: What came of every model.
        monitor: The figure that chose the epochs, by which the leaderboard is sorted.
    """
    trained = [result for result in results if result.report is not None]
    lost = [result.name for result in results if result.report is None]
    story = f"{len(trained)} translators of {len(results)}."
    if lost:
        story += f" Diverged, try a lower learning rate: {', '.join(lost)}."
    page = _PAGE.substitute(
        name=escape(path.resolve().parent.name),
        story=escape(story),
        leaderboard=_leaderboard(trained, monitor),
        monitor=escape(monitor),
        picture=_picture(trained, monitor) if trained else "",
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _leaderboard(results: Sequence[SweepResult], monitor: str) -> str:
    tables = list(dict.fromkeys(table for result in results for table in result.held_out))
    header = ["Model", "Data", "Hidden", "Loss", "Pairs", "Epoch", "Seconds"]
    header += ["R@1", "R@5", "R@10", "MRR", "Median rank", "Cosine", "R@10 by chance"]
    header += [f"R@10 on {table}" for table in tables]
    rows = []
    ranked = [(result, result.report) for result in results if result.report is not None]
    for result, report in sorted(ranked, key=lambda pair: -pair[1].metrics[monitor]):
        figures = report.metrics
        cells = [
            result.name,
            result.data,
            str(report.settings["hidden"]),
            str(report.settings["loss"]),
            f"{report.pairs['train']:,}",
            f"{report.best_epoch} of {report.epochs_run}",
            f"{report.seconds:.1f}",
            *(f"{figures[name]:.3f}" for name in ("recall_at_1", "recall_at_5", "recall_at_10")),
            f"{figures['mrr']:.3f}",
            f"{figures['median_rank']:.1f}",
            f"{figures['cosine']:.3f}",
            f"{report.shuffled_pairs['recall_at_10']:.3f}",
            *(f"{result.held_out[table]['recall_at_10']:.3f}" for table in tables),
        ]
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    caption = (
        f"The best {monitor} first. The first figures are on a model's own held-out pairs, which "
        "depend on its data; the columns “on” a table compare all models."
    )
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{''.join(rows)}</table>"


def _picture(results: Sequence[SweepResult], monitor: str) -> str:
    """Draw a row for each data set: the monitor, then the curves of each loss."""
    trained = [(result, result.report) for result in results if result.report is not None]
    data_sets = list(dict.fromkeys(result.data for result, _ in trained))
    losses = list(dict.fromkeys(report.settings["loss"] for _, report in trained))
    figure = Figure(
        figsize=(4.2 * (1 + len(losses)), 3.2 * len(data_sets)), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(data_sets), 1 + len(losses), squeeze=False)
    for row, data in zip(panels, data_sets, strict=True):
        row[0].set_title(f"{data}: {monitor}", fontsize=10)
        for axes, loss in zip(row[1:], losses, strict=True):
            axes.set_title(f"{data}: {loss}", fontsize=10)
        for result, report in trained:
            if result.data != data:
                continue
            epochs = [record.epoch for record in report.history]
            scores = [record.validation[monitor] for record in report.history]
            label = result.name.removeprefix(f"{data}-")
            (line,) = row[0].plot(epochs, scores, linewidth=1, label=label)
            if report.best_epoch is not None:
                row[0].plot(
                    report.best_epoch, scores[report.best_epoch - 1], "o", color=line.get_color()
                )
            axes = row[1 + losses.index(report.settings["loss"])]
            for figures, style in (
                ([record.train_loss for record in report.history], "--"),
                ([record.validation_loss for record in report.history], "-"),
            ):
                axes.plot(epochs, figures, style, linewidth=1, color=line.get_color())
        row[0].legend(fontsize=7)
        for axes in row:
            axes.set_xlabel("Epoch")
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
