"""The page of an evaluation: one file that holds all it shows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from clip2clap.core.errors import UserError
from clip2clap.core.version import __version__
from clip2clap.evaluation.results import Results, sought
from clip2clap.report.charts import (
    confusion_matrix,
    cosine_histograms,
    learning_curves,
    planes,
    recall_curves,
)
from clip2clap.report.page import card, data_uri, picture, write_page

PAGE_FILE = "report.html"

EXAMPLES = 10
"""How many of the best and of the worst are shown."""

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
    "every figure with its interval, results.npz the ranks of every row; "
    "<code>clip2clap evaluate --compare</code> tells which differences are real."
)


@dataclass(frozen=True)
class Example:
    """One thing that came out well or badly."""

    title: str
    """What it is called."""

    text: str
    """What was measured of it."""

    pictures: Sequence[tuple[str, bytes]] = ()
    """What there is to see: words for each, and a JPEG."""

    sound: bytes | None = None
    """What there is to hear, an Ogg Vorbis."""


@dataclass(frozen=True)
class Exhibits:
    """What a page shows beside the figures."""

    clouds: Mapping[str, Any] | None = None
    """Points of the principal planes, as `EmbeddingEvaluation.clouds` holds them."""

    texts: Sequence[str] = ()
    """What each row measured on is, for people."""

    best: Sequence[Example] = ()
    """The sounds, or pictures, that fit best, the best first."""

    worst: Sequence[Example] = ()
    """Those that fit worst, the worst first."""


def write_evaluation_page(
    results: Results, folder: str | Path, exhibits: Exhibits | None = None
) -> Path:
    """Write the page of an evaluation; a file of that name is replaced.

    Args:
        results: What was measured.
        folder: Where `report.html` goes; made if it is not there.
        exhibits: Points, words, pictures and sounds to show.

    Returns:
        The page's path.

    Raises:
        UserError: If the folder can't be written to.
    """
    exhibits = exhibits or Exhibits()
    sections = []
    if results.figures["embeddings"] is not None:
        sections += _embedding_sections(results, exhibits)
    if results.figures["sounds"] is not None:
        sections += _sound_sections(results, exhibits)
    if results.figures["pictures"] is not None:
        sections += _picture_sections(results, exhibits)
    path = Path(folder).expanduser() / PAGE_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(
            path,
            verb="evaluate",
            title="Evaluation",
            content="\n".join(sections),
            footer=_FOOTER,
            style=_STYLE,
        )
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror or error}. Give another folder."
        ) from error
    return path


def leaderboard(embeddings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Order the translators of `results.json`, the highest mean reciprocal rank first."""
    return sorted(
        embeddings["translators"], key=lambda one: -one["scores"]["forward"]["mrr"]["value"]
    )


def _embedding_sections(results: Results, exhibits: Exhibits) -> list[str]:
    part = results.figures["embeddings"]
    ranked = leaderboard(part)
    names = [one["scores"]["name"] for one in ranked]
    rows = {
        figure: {name: results.per_row[f"embeddings/{name}/{figure}"] for name in names}
        for figure in ("forward", "cosine")
    }
    shuffled = {
        figure: {name: results.per_row[f"embeddings/{name}/shuffled/{figure}"] for name in names}
        for figure in ("forward", "cosine")
    }
    best = names[0]
    sections = [
        f"<p>{escape(_story(part))}</p>",
        "<h2>Leaderboard</h2>",
        _paragraph(
            "Below each figure stands its 95 % interval. From prediction to target, true targets "
            "are sought among all distinct ones; reverse, a target's own prediction among those "
            "of other targets. Ties count against us."
        ),
        card("Leaderboard", _leaderboard_table(part, ranked)),
        card("Hubs, gap and CSLS", _geometry_table(part, ranked)),
    ]
    histories = {one["scores"]["name"]: one["history"] for one in ranked if one["history"]}
    if histories:
        sections += ["<h2>Learning curves</h2>", picture(learning_curves(histories), "Losses")]
    sections += [
        "<h2>Recall</h2>",
        picture(
            recall_curves(rows["forward"], shuffled["forward"][best], part["gallery"]),
            "Recall at k for every k, by translator",
        ),
        "<h2>Similarity of pairs</h2>",
        picture(
            cosine_histograms(rows["cosine"], shuffled["cosine"]),
            "Histograms of the cosine similarity of predictions to their targets",
        ),
    ]
    if exhibits.clouds is not None:
        sections += [
            "<h2>Both spaces</h2>",
            _paragraph(
                "On their two principal axes: the spaces before translation, each on its own "
                "axes, and then predictions among targets on shared ones."
            ),
            picture(planes(exhibits.clouds), "Scatter plots of the spaces before and after"),
        ]
    kinds = ranked[0]["scores"]["kinds"]
    if kinds is not None:
        sections += [
            f"<h2>Kinds, {escape(best)}</h2>",
            picture(confusion_matrix(kinds["names"], kinds["confusion"]), "Confusion of kinds"),
        ]
    if len(exhibits.texts):
        sections += _row_sections(best, results, exhibits.texts)
    return sections


def _story(part: Mapping[str, Any]) -> str:
    gap = part["gap_before"]
    before = (
        ""
        if gap is None
        else f" Before translation the means of the two sides lie {gap['distance']['value']:.2f} "
        f"apart, at {gap['angle']['value']:.0f}°."
    )
    return (
        f"{part['source_column']} to {part['target_column']} of {part['table']}: "
        f"{part['rows']:,} rows ({part['split']}) of {part['items']:,} items, "
        f"{part['gallery']:,} distinct targets. What is sought: {sought(part)}.{before}"
    )


def _leaderboard_table(part: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> str:
    has_kinds = ranked[0]["scores"]["kinds"] is not None
    header = ["", "Recall at 1", "at 5", "at 10", "Median rank", "MRR", "Cosine"]
    header += ["Reverse at 1", "at 10", "MRR", *(["Nearest kind"] if has_kinds else [])]
    rows = []
    for name, scores, control in _with_controls(part, ranked):
        forward, backward = scores["forward"], scores["backward"]
        cells = [
            *(_percent(forward[f"recall_at_{k}"]) for k in (1, 5, 10)),
            _number(forward["median_rank"], 1),
            _number(forward["mrr"], 3),
            _number(scores["cosine"], 3),
            *(_percent(backward[f"recall_at_{k}"]) for k in (1, 10)),
            _number(backward["mrr"], 3),
        ]
        if has_kinds:
            cells.append(_percent(scores["kinds"]["accuracy"]))
        rows.append((name, cells, control))
    return _figures_table(header, rows)


def _geometry_table(part: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]) -> str:
    header = ["", "Hubness", "with CSLS", "Recall at 10 with CSLS", "Gap", "Angle", "Weights"]
    weights = {one["scores"]["name"]: f"{one['parameters']:,}" for one in ranked}
    rows = [
        (
            name,
            [
                _number(scores["hubness"], 2),
                _number(scores["csls_hubness"], 2),
                _percent(scores["csls"]["recall_at_10"]),
                _number(scores["gap_distance"], 3),
                _number(scores["gap_angle"], 1, "°"),
                weights.get(name, ""),
            ],
            control,
        )
        for name, scores, control in _with_controls(part, ranked)
    ]
    return _figures_table(header, rows)


def _with_controls(
    part: Mapping[str, Any], ranked: Sequence[Mapping[str, Any]]
) -> Iterable[tuple[str, Mapping[str, Any], bool]]:
    for one in ranked:
        yield one["scores"]["name"], one["scores"], False
        yield "shuffled pairs", one["shuffled"], True
    yield part["mean_vector"]["name"], part["mean_vector"], True


def _row_sections(name: str, results: Results, texts: Sequence[str]) -> list[str]:
    """Show the rows whose predictions lie nearest to their targets, and farthest."""
    ranks = results.per_row[f"embeddings/{name}/forward"]
    cosines = results.per_row[f"embeddings/{name}/cosine"]
    ids = results.per_row["embeddings/ids"]
    order = np.lexsort((-cosines, ranks))
    sections = [f"<h2>Rows, {escape(name)}</h2>"]
    for title, rows in (("Best", order[:EXAMPLES]), ("Worst", order[::-1][:EXAMPLES])):
        body = "".join(
            f"<tr><td>{ranks[row]:,}</td><td>{cosines[row]:.3f}</td>"
            f"<td>{escape(str(ids[row]))}</td><td>{escape(str(texts[row]))}</td></tr>"
            for row in rows
        )
        head = "<tr><th>Rank</th><th>Cosine</th><th>Id</th><th></th></tr>"
        table = f'<table class="words">{head}{body}</table>'
        sections += [f"<h3>{title}</h3>", card(f"{title} rows", table)]
    return sections


def _sound_sections(results: Results, exhibits: Exhibits) -> list[str]:
    part = results.figures["sounds"]
    classifier = "" if part["classifier"] is None else f" The judge: {part['classifier']}."
    sections = [
        "<h2>Sounds</h2>",
        _paragraph(
            f"{part['rows']:,} photographs of {part['images']} through {part['pipeline']}, beside "
            f"{part['recordings']:,} recordings. Measured by the CLAP {part['clap']}.{classifier}"
        ),
        card("Sounds", _sound_table(part)),
        *(_paragraph(note) for note in part["notes"]),
    ]
    sections += _round_trip_sections(part, "From photograph to sound to picture", "photographs")
    sections += _confusion_sections(part, "What the judge hears")
    return sections + _example_sections("sounds", exhibits)


def _picture_sections(results: Results, exhibits: Exhibits) -> list[str]:
    part = results.figures["pictures"]
    classifier = "" if part["classifier"] is None else f" The judge: {part['classifier']}."
    sections = [
        "<h2>Pictures</h2>",
        _paragraph(
            f"{part['rows']:,} recordings of {part['recordings']} through {part['pipeline']}, "
            f"beside {part['real_pictures']:,} real pictures. Measured by the CLIP "
            f"{part['clip']}.{classifier}"
        ),
        card("Pictures", _picture_table(part)),
        *(_paragraph(note) for note in part["notes"]),
    ]
    sections += _round_trip_sections(part, "From recording to picture to sound", "recordings")
    sections += _confusion_sections(part, "What the judge sees")
    return sections + _example_sections("pictures", exhibits)


def _confusion_sections(part: Mapping[str, Any], title: str) -> list[str]:
    judged = [one for one in part["translators"] if one["confusion"] is not None]
    if not judged:
        return []
    best = max(judged, key=lambda one: one["scores"]["classifier"]["value"])
    return [
        f"<h3>{title}, {escape(best['scores']['name'])}</h3>",
        picture(confusion_matrix(part["kinds"], best["confusion"]), "Confusion of kinds"),
    ]


def _example_sections(what: str, exhibits: Exhibits) -> list[str]:
    sections = []
    for title, examples in ((f"Best {what}", exhibits.best), (f"Worst {what}", exhibits.worst)):
        if examples:
            cards = "".join(_example(example) for example in examples)
            sections += [f"<h3>{title}</h3>", f'<div class="examples">{cards}</div>']
    return sections


def _round_trip_sections(part: Mapping[str, Any], title: str, starts: str) -> list[str]:
    # Missing in what was written before there were any.
    trips = [one for one in part["translators"] if one.get("round_trip")]
    if not trips:
        return []
    rows = []
    for one in trips:
        trip = one["round_trip"]
        rows += [
            (name, _round_trip_cells(trip[key]), control)
            for key, name, control in (
                ("scores", one["scores"]["name"], False),
                ("wrong_source", "wrong source", True),
                ("real", f"real {starts} of a kind", True),
            )
            if trip[key] is not None
        ]
    return [
        f"<h3>{title}</h3>",
        _paragraph(
            f"The ends held against their own {starts}, in the encoder of these; against those of "
            f"another kind; and other {starts} of the kind in place of the ends."
        ),
        card("Round trips", _figures_table(["", "Similarity", "Nearest kind"], rows)),
    ]


def _round_trip_cells(scores: Mapping[str, Any]) -> list[str]:
    kind = scores["kind"]
    return [_number(scores["similarity"], 3), "" if kind is None else _percent(kind)]


def _picture_table(part: Mapping[str, Any]) -> str:
    header = ["", "Pictures", "FD", "Kernel distance", "Classifier", "Translated vector"]
    header += ["True pictures", "Seconds a picture"]
    lines = [(part["real"], "real pictures", True)] if part["real"] else []
    for one in part["translators"]:
        lines += [
            (one["scores"], one["scores"]["name"], False),
            (one["wrong_sound"], "wrong sound", True),
        ]
    rows = [
        (
            name,
            [
                str(scores["pictures"]),
                _plain(scores["fd"], 3),
                _plain(scores["kd"], 4),
                "" if scores["classifier"] is None else _percent(scores["classifier"]),
                _maybe(scores["translated"], 3),
                _maybe(scores["true_picture"], 3),
                _plain(scores["seconds"], 2),
            ],
            control,
        )
        for scores, name, control in lines
    ]
    return _figures_table(header, rows)


def _sound_table(part: Mapping[str, Any]) -> str:
    header = ["", "Clips", "FD", "FAD, 1 s", "Kernel distance", "CLAP score"]
    header += ["Translated vector", "Classifier", "CLIP-score", "Seconds a clip"]
    lines = [(part["real"], "real recordings", True)] if part["real"] else []
    for one in part["translators"]:
        lines += [
            (one["scores"], one["scores"]["name"], False),
            (one["wrong_picture"], "wrong picture", True),
        ]
    rows = [
        (
            name,
            [
                str(scores["clips"]),
                *(_plain(scores[figure], 3) for figure in ("fd", "fad")),
                _plain(scores["kd"], 4),
                _maybe(scores["clap_score"], 3),
                _maybe(scores["translated"], 3),
                "" if scores["classifier"] is None else _percent(scores["classifier"]),
                _maybe(scores["clip_score"], 1),
                _plain(scores["seconds"], 2),
            ],
            control,
        )
        for scores, name, control in lines
    ]
    return _figures_table(header, rows)


def _example(example: Example) -> str:
    parts = []
    for words, jpeg in example.pictures:
        alt = escape(f"{example.title}: {words}")
        parts.append(f'<img src="{data_uri(jpeg, "image/jpeg")}" alt="{alt}">')
    if example.sound is not None:
        parts.append(
            f'<audio controls preload="none" src="{data_uri(example.sound, "audio/ogg")}" '
            f'aria-label="Sound of {escape(example.title)}"></audio>'
        )
    caption = f"{escape(example.title)}<br>{escape(example.text)}"
    return f"<figure>{''.join(parts)}<figcaption>{caption}</figcaption></figure>"


def _figures_table(header: Sequence[str], rows: Iterable[tuple[str, Sequence[str], bool]]) -> str:
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        f"<tr{' class=control' if control else ''}><td>{escape(name)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
        for name, cells, control in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _percent(figure: Mapping[str, float]) -> str:
    value, low, high = (100 * figure[key] for key in ("value", "low", "high"))
    return f"{value:.1f} %<small>{low:.1f} to {high:.1f}</small>"


def _number(figure: Mapping[str, float], digits: int, unit: str = "") -> str:
    value, low, high = (f"{figure[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value}{unit}<small>{low} to {high}</small>"


def _maybe(figure: Mapping[str, float] | None, digits: int) -> str:
    return "" if figure is None else _number(figure, digits)


def _plain(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
