"""Report sections on embeddings."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from clip2clap.evaluation.report.tables import embedding_rows, html_table, paragraph
from clip2clap.evaluation.results import Results, leaderboard, retrieval_direction
from clip2clap.report.page import card, picture

SHOWN_ROWS = 10
"""Best and worst rows that are shown."""


def embedding_sections(
    results: Results, *, clouds: Mapping[str, Any] | None, texts: Sequence[str]
) -> list[str]:
    """Write the sections on embeddings as HTML."""
    part = results.metrics["embeddings"]
    ranked, rows = leaderboard(part), embedding_rows(part)
    best = ranked[0]["scores"]["name"]
    sections = [
        paragraph(_summary(part)),
        "<h2>Leaderboard</h2>",
        paragraph(
            "The 95 % interval is below each metric. Forward: rank of the true target among all "
            "distinct targets by similarity to the prediction; reverse: rank of a target's own "
            "prediction among those of other targets. Ties count as worse ranks."
        ),
        card("Leaderboard", html_table("embeddings", rows)),
        card("Hubness, gap and CSLS", html_table("geometry", rows)),
        *_chart_sections(results, ranked, clouds),
    ]
    return sections + (_row_sections(best, results, texts) if len(texts) else [])


def _summary(part: Mapping[str, Any]) -> str:
    gap = part["gap_before"]
    before = (
        ""
        if gap is None
        else f" Before translation the means of the two sides are {gap['distance']['value']:.2f} "
        f"apart, at {gap['angle']['value']:.0f}°."
    )
    return (
        f"{part['source_column']} to {part['target_column']} of {part['table']}: "
        f"{part['rows']:,} rows ({part['split']}) of {part['items']:,} items, "
        f"{part['gallery']:,} distinct targets. Retrieval of {retrieval_direction(part)}.{before}"
    )


def _chart_sections(
    results: Results, ranked: Sequence[Mapping[str, Any]], clouds: Mapping[str, Any] | None
) -> list[str]:
    from clip2clap.report import charts

    part, names = results.metrics["embeddings"], [one["scores"]["name"] for one in ranked]
    rows, shuffled = (
        {
            metric: {
                name: results.per_row[f"embeddings/{name}{control}/{metric}"] for name in names
            }
            for metric in ("forward", "cosine")
        }
        for control in ("", "/shuffled")
    )
    sections = []
    trained = {one["scores"]["name"]: one for one in ranked if one["history"]}
    if trained:
        chart = charts.learning_curves(trained)
        sections += ["<h2>Learning curves</h2>", picture(chart, "Losses")]
    recalls = charts.recall_curves(rows["forward"], shuffled["forward"][names[0]], part["gallery"])
    sections += [
        "<h2>Recall</h2>",
        picture(recalls, "Recall at k for every k, by translator"),
        "<h2>Similarity of pairs</h2>",
        picture(
            charts.cosine_histograms(rows["cosine"], shuffled["cosine"]),
            "Histograms of the cosine similarity of predictions to their targets",
        ),
    ]
    if clouds is not None:
        sections += [
            "<h2>Both spaces</h2>",
            paragraph(
                "On two principal axes: the spaces before translation, each on its own axes, and "
                "then predictions among targets on shared ones."
            ),
            picture(charts.planes(clouds), "Scatter plots of the spaces before and after"),
        ]
    labels = ranked[0]["scores"]["nearest_label"]
    if labels is not None:
        chart = charts.confusion_matrix(labels["names"], labels["confusion"])
        sections += [
            f"<h2>Nearest labels, {escape(names[0])}</h2>",
            picture(chart, "Confusion matrix"),
        ]
    return sections


def _row_sections(name: str, results: Results, texts: Sequence[str]) -> list[str]:
    """Write the rows with the best and the worst predictions."""
    ranks = results.per_row[f"embeddings/{name}/forward"]
    cosines = results.per_row[f"embeddings/{name}/cosine"]
    ids = results.per_row["embeddings/ids"]
    order = np.lexsort((-cosines, ranks))
    sections = [f"<h2>Rows, {escape(name)}</h2>"]
    for title, rows in (("Best", order[:SHOWN_ROWS]), ("Worst", order[::-1][:SHOWN_ROWS])):
        body = "".join(
            f"<tr><td>{ranks[row]:,}</td><td>{cosines[row]:.3f}</td>"
            f"<td>{escape(str(ids[row]))}</td><td>{escape(str(texts[row]))}</td></tr>"
            for row in rows
        )
        head = "<tr><th>Rank</th><th>Cosine</th><th>Id</th><th></th></tr>"
        table = f'<table class="words">{head}{body}</table>'
        sections += [f"<h3>{title}</h3>", card(f"{title} rows", table)]
    return sections
