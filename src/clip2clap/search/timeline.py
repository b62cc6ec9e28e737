"""Figure of the labels of audio over time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clip2clap.core.errors import printable
from clip2clap.core.files import replacing
from clip2clap.search.classify import Segment

_MOST_LABELS = 12
_LEAST_PROBABILITY = 0.05


def write_timeline(path: str | Path, segments: Sequence[Segment], *, title: str) -> None:
    """Write the probabilities of the labels over time as a PNG, the most likely label at the top.

    Labels that are nowhere likely are left out.

    Args:
        path: File to write, replaced if it exists; its folder must exist.
        segments: Windows of audio, with all or the most likely labels of each.
        title: Line above the figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    totals: dict[str, float] = {}
    for segment in segments:
        for label, probability in segment.labels:
            if probability >= _LEAST_PROBABILITY:
                totals[label] = totals.get(label, 0.0) + probability
    labels = sorted(totals, key=lambda label: -totals[label])[:_MOST_LABELS]
    found = [dict(segment.labels) for segment in segments]
    values = np.array([[each.get(label, 0.0) for each in found] for label in labels])
    edges = np.array([each.start_s for each in segments] + [segments[-1].end_s], float)
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(labels)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if labels:
        rows = np.arange(len(labels) + 1) - 0.5
        mesh = axes.pcolormesh(edges, rows, values, cmap="magma", vmin=0, vmax=1)
        figure.colorbar(mesh, ax=axes, pad=0.01, label="Probability")
    axes.set_yticks(range(len(labels)), [printable(label) for label in labels])
    axes.invert_yaxis()
    axes.set_xlabel("Time (s)")
    axes.set_title(printable(title), parse_math=False)
    with replacing(Path(path)) as partial:
        figure.savefig(partial, format="png")
