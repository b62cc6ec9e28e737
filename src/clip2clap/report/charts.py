"""Charts of the reports, each as the bytes of a PNG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clip2clap.core.errors import printable

# More curves cannot be distinguished, and more panels make the page large.
MOST_CURVES = 10
MOST_PLANES = 4

_CHANCE = {"color": "#8a8378", "linestyle": "--", "linewidth": 1}


def recall_curves(ranks: Mapping[str, np.ndarray], chance: np.ndarray, gallery: int) -> bytes:
    """Draw recall at k against k.

    Args:
        ranks: Ranks by translator, shape (n,); the first ten are drawn.
        chance: Ranks of the shuffled control, shape (n,).
        gallery: Number of distinct targets.
    """
    figure, ((axes,),) = panels(1, 1, 7.5, 4.5)
    places = np.unique(np.geomspace(1, max(gallery, 2), 200).round().astype(int))
    for name, values in list(ranks.items())[:MOST_CURVES]:
        axes.plot(places, _share_below(values, places), label=plain_text(name))
    axes.plot(places, _share_below(chance, places), label="shuffled pairs", **_CHANCE)
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("k, of " + f"{gallery:,} embeddings")
    axes.set_ylabel("Recall at k")
    axes.legend(fontsize=8)
    return png(figure)


def cosine_histograms(
    cosines: Mapping[str, np.ndarray], shuffled: Mapping[str, np.ndarray]
) -> bytes:
    """Draw cosine similarities of predictions to their own and to other targets, by translator."""
    names = list(cosines)[:MOST_PLANES]
    figure, (row,) = panels(1, len(names), 3.9 * len(names) + 0.4, 3.4)
    for axes, name in zip(row, names, strict=True):
        both = np.concatenate([cosines[name], shuffled[name]])
        edges = np.linspace(both.min() - 1e-3, both.max() + 1e-3, 60)
        axes.hist(shuffled[name], edges, color=_CHANCE["color"], alpha=0.6, label="other target")
        axes.hist(cosines[name], edges, color="#4c72b0", alpha=0.7, label="own target")
        axes.set_title(plain_text(name), fontsize=10)
        axes.set_xlabel("Cosine similarity")
        axes.legend(fontsize=8)
    row[0].set_ylabel("Rows")
    return png(figure)


def learning_curves(runs: Mapping[str, Mapping[str, Any]], monitor: str = "mrr") -> bytes:
    """Draw losses and a held-out metric by epoch, with a dot at the best epoch.

    Args:
        runs: `history` and `best_epoch` of each translator, as in `training.json`; the first ten
            are drawn.
        monitor: The metric.
    """
    figure, ((losses, metrics),) = panels(1, 2, 8.2, 4)
    colors = colormaps["tab10"].colors  # pyright: ignore[reportAttributeAccessIssue]
    for color, (name, run) in zip(colors[:MOST_CURVES], runs.items(), strict=False):
        history, best = run["history"], run["best_epoch"]
        epochs = [record["epoch"] for record in history]
        style = {"color": color, "label": plain_text(name), "markevery": [best - 1] if best else []}
        losses.plot(epochs, [r["validation_loss"] for r in history], "-o", **style)
        losses.plot(epochs, [r["train_loss"] for r in history], ":", color=color)
        metrics.plot(epochs, [r["validation"][monitor] for r in history], "-o", **style)
    losses.set_ylabel("Loss (dotted: training)")
    metrics.set_ylabel(f"Held-out {monitor}")
    for axes in (losses, metrics):
        axes.set_xlabel("Epoch")
        axes.legend(fontsize=8)
    return png(figure)


def planes(clouds: Mapping[str, Any]) -> bytes:
    """Draw 2-D projections of both spaces, and of predictions among targets."""
    after = list(clouds["after"].items())[:MOST_PLANES]
    figure, (row,) = panels(1, 2 + len(after), 3.9 * (2 + len(after)) + 0.4, 3.6)
    colors = _colors(clouds["labels"])
    for axes, side in zip(row, ("source", "target"), strict=False):
        axes.scatter(*clouds[side].T, s=5, c=colors, alpha=0.7, linewidths=0)
        axes.set_title(f"before: {side}", fontsize=10)
    for axes, (name, (predicted, target)) in zip(row[2:], after, strict=True):
        axes.scatter(*target.T, s=5, c="#bbb5a9", label="target", linewidths=0)
        axes.scatter(*predicted.T, s=5, c=colors, alpha=0.7, label="prediction", linewidths=0)
        axes.set_title(plain_text(f"after: {name}"), fontsize=10)
        axes.legend(fontsize=7)
    for axes in row:
        axes.set_xticks([])
        axes.set_yticks([])
    return png(figure)


def confusion_matrix(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> bytes:
    """Draw a confusion matrix of true (rows) and predicted (columns) labels, row-normalized."""
    counts = np.array(confusion, float)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3.5 + 0.26 * len(labels), 14)
    figure, ((axes,),) = panels(1, 1, side + 0.8, side)
    image = axes.imshow(shares, cmap="magma_r", vmin=0, vmax=1)
    if len(labels) <= 60:
        labels = [plain_text(label) for label in labels]
        axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_xlabel("Predicted label")
    axes.set_ylabel("True label")
    figure.colorbar(image, label="share of the rows", shrink=0.8)
    return png(figure)


def _share_below(ranks: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(ranks), places, side="right") / len(ranks)


def _colors(labels: Sequence[str] | None) -> Any:
    if labels is None:
        return "#4c72b0"
    names = sorted(set(labels))
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, len(names)))
    return [colors[names.index(label)] for label in labels]


def plain_text(name: str) -> str:
    """Return a name that matplotlib shows as it is: not as mathematics, nor hidden as `_name`."""
    shown = printable(name).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Create a figure, of a size in inches, and its axes, shape (rows, columns)."""
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
