"""The figures of evaluations as tables for a terminal."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from clip2clap.evaluation.comparison import Difference
    from clip2clap.evaluation.results import Results

_SIMILARITIES = ("clap_score", "translated")


def embedding_table(results: "Results") -> Table:
    """Lay the translators out, the best first, above what chance and a constant answer give."""
    from clip2clap.evaluation.report.page import leaderboard
    from clip2clap.evaluation.results import sought

    part = results.figures["embeddings"]
    ranked = leaderboard(part)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{sought(part)}, {part['rows']} rows ({part['split']})")
    kinds = ranked[0]["scores"]["kinds"] is not None
    titles = ["recall at 1", "at 10", "mrr", "cosine", *(["nearest kind"] if kinds else [])]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    lines = [
        *((one["scores"]["name"], one["scores"]) for one in ranked),
        ("shuffled pairs", ranked[0]["shuffled"]),
        ("mean vector", part["mean_vector"]),
    ]
    for name, scores in lines:
        forward = scores["forward"]
        cells = [
            _share(forward["recall_at_1"]),
            _share(forward["recall_at_10"]),
            _spread(forward["mrr"]),
            _spread(scores["cosine"]),
        ]
        table.add_row(name, *cells, *([_share(scores["kinds"]["accuracy"])] if kinds else []))
    return table


def sound_table(results: "Results") -> Table:
    """Lay the sounds out below the real ones, each above the control."""
    part = results.figures["sounds"]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"sounds of {part['rows']} photographs, by {part['clap']}")
    for title in (
        "FD",
        "FAD",
        "kernel",
        "CLAP score",
        "translated",
        "classifier",
        "CLIP-score",
        "s",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    lines = [] if part["real"] is None else [part["real"]]
    for one in part["translators"]:
        lines += [one["scores"], one["wrong_picture"]]
    for scores in lines:
        name = scores["name"]
        table.add_row(
            "wrong picture" if name.endswith("/wrong picture") else name,
            *("" if scores[key] is None else f"{scores[key]:.3f}" for key in ("fd", "fad", "kd")),
            *("" if scores[key] is None else _spread(scores[key]) for key in _SIMILARITIES),
            "" if scores["classifier"] is None else _share(scores["classifier"]),
            "" if scores["clip_score"] is None else f"{scores['clip_score']['value']:.1f}",
            "" if scores["seconds"] is None else f"{scores['seconds']:.2f}",
        )
    return table


def picture_table(results: "Results") -> Table:
    """Lay the pictures out below the real ones, each above the control."""
    part = results.figures["pictures"]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"pictures of {part['rows']} recordings, by {part['clip']}")
    for title in ("FD", "kernel", "classifier", "translated", "true pictures", "s"):
        table.add_column(title, justify="right", no_wrap=True)
    lines = [] if part["real"] is None else [part["real"]]
    for one in part["translators"]:
        lines += [one["scores"], one["wrong_sound"]]
    for scores in lines:
        name = scores["name"]
        table.add_row(
            "wrong sound" if name.endswith("/wrong sound") else name,
            *("" if scores[key] is None else f"{scores[key]:.3f}" for key in ("fd", "kd")),
            "" if scores["classifier"] is None else _share(scores["classifier"]),
            "" if scores["translated"] is None else _spread(scores["translated"]),
            "" if scores["true_picture"] is None else _spread(scores["true_picture"]),
            "" if scores["seconds"] is None else f"{scores['seconds']:.2f}",
        )
    return table


def round_trip_table(part: dict[str, Any]) -> Table:
    """Lay out how much of sounds, or of pictures, came back from the other sense.

    Args:
        part: `sounds` or `pictures` of the results.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("there and back")
    for title in ("similarity", "nearest kind"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in part["translators"]:
        trip = one["round_trip"]
        lines = (
            (one["scores"]["name"], trip["scores"]),
            ("wrong source", trip["wrong_source"]),
            ("real ones of a kind", trip["real"]),
        )
        for name, scores in lines:
            if scores is not None:
                kind = "" if scores["kind"] is None else _share(scores["kind"])
                table.add_row(name, _spread(scores["similarity"]), kind)
    return table


def difference_table(differences: "list[Difference]") -> Table:
    """Lay out which figures differ, by how much, and whether that is real."""
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    table.add_column("of")
    for title in ("difference", "95 %", "p", ""):
        table.add_column(title, justify="right", no_wrap=True)
    for one in differences:
        by = one.difference
        table.add_row(
            one.figure,
            f"{one.one} - {one.other}",
            f"{by.value:+.3g}",
            f"{by.low:+.3g} to {by.high:+.3g}",
            f"{one.p:.3g}",
            "real" if one.is_real else "",
        )
    return table


def _share(figure: dict[str, float]) -> str:
    return f"{100 * figure['value']:.1f} ± {50 * (figure['high'] - figure['low']):.1f} %"


def _spread(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ± {(figure['high'] - figure['low']) / 2:.3f}"
