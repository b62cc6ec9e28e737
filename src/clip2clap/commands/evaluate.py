"""`clip2clap evaluate`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clip2clap.commands.options import Json, Seed, check_seed, require

if TYPE_CHECKING:
    from clip2clap.evaluation import Difference, Results
    from clip2clap.translator import Translator


def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="TRANSLATOR...",
            help="Translators: folders, hub ids or demo. With --compare: one or two results.json.",
        ),
    ],
    table: Annotated[
        Path | None,
        typer.Option(metavar="TABLE", help="A folder of paired embeddings to measure on."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where report.html, results.json and results.npz go.",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Say which differences between two evaluations are real."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Map from here; by default the only CLIP column.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Map to here; by default the only CLAP column.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    item: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Rows equal here come from one thing; by default the item, file, url, caption or "
            "id.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="The kind of each row, such as dog.", rich_help_panel="Pairs"
        ),
    ] = None,
    split: Annotated[
        Literal["auto", "test", "validation", "train", "all"],
        typer.Option(
            help="Rows to measure on; auto takes what was held out.", rich_help_panel="Pairs"
        ),
    ] = "auto",
    limit: Annotated[
        int, typer.Option(metavar="N", help="Rows at most.", rich_help_panel="Pairs")
    ] = 50_000,
    resamples: Annotated[
        int,
        typer.Option(metavar="N", help="Draws of the bootstrap.", rich_help_panel="Running"),
    ] = 1000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure translators on pairs of embeddings, beside chance and the mean vector.

    With --compare, say which differences between evaluations are real.
    """
    check_seed(seed)
    require(resamples >= 100, "--resamples", f"expected at least 100, got {resamples}.")
    if compare:
        require(len(inputs) <= 2, "--compare", f"expected one or two, got {len(inputs)}.")
        _compare(inputs, seed=seed, as_json=as_json)
        return
    require(table is not None, "--table", "name the pairs to measure on.")
    require(output is not None, "--output", "name the folder of the report.")
    assert output is not None
    require(not output.is_file(), "--output", f"{output} is a file, not a folder.")

    from clip2clap.evaluation import (
        Exhibits,
        choose_rows,
        embedding_results,
        evaluate_embeddings,
        join_results,
        write_evaluation_page,
    )

    console = Console(stderr=True)
    translators = _load(inputs)
    rows = choose_rows(
        table,
        inputs,
        split=split,
        source=source,
        target=target,
        item=item,
        labels=labels,
        limit=limit,
    )
    with _progress(console, "Measuring") as advance:
        evaluation = evaluate_embeddings(
            {name: translator for name, (_, translator) in translators.items()},
            rows.pairs,
            labels=rows.labels,
            mean=rows.mean,
            resamples=resamples,
            seed=seed,
            on_progress=advance,
        )
    embeddings = embedding_results(rows, evaluation, translators, table=str(table), labels=labels)
    results = join_results(embeddings, None, seed=seed)
    with console.status("Writing the report"):
        results.write(output)
        page = write_evaluation_page(
            results, output, Exhibits(clouds=evaluation.clouds, texts=rows.texts)
        )
    if as_json:
        typer.echo(json.dumps(results.figures, indent=2))
        return
    out = _stdout()
    out.print(_embedding_table(results))
    out.print(f"The whole report: {page}", soft_wrap=True)


def _load(names: list[str]) -> "dict[str, tuple[str, Translator]]":
    """Load translators under the shortest names that tell them apart."""
    from clip2clap.translator import AutoTranslator

    parts = {name: Path(name).parts for name in names}
    loaded = {}
    for name, own in parts.items():
        others = [other for other in parts.values() if other != own]
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        loaded["/".join(own[-length:])] = (name, AutoTranslator.from_pretrained(name))
    return loaded


def _compare(paths: list[str], *, seed: int, as_json: bool) -> None:
    from clip2clap.evaluation import Results, compare_results

    differences = compare_results(*(Results.read(path) for path in paths), seed=seed)
    if as_json:
        found = [{**asdict(one), "is_real": one.is_real} for one in differences]
        typer.echo(json.dumps(found, indent=2))
        return
    out = _stdout()
    out.print(_difference_table(differences))
    real = sum(one.is_real for one in differences)
    out.print(f"{real} of {len(differences)} differences are real; chance explains the others.")


def _stdout() -> Console:
    """Give the console of stdout; a file has room for whole lines."""
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=160)


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Any]:
    """Show a bar; gives what sets its share."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(what, total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _embedding_table(results: "Results") -> Table:
    """Lay the translators out, the best first, above what chance and a constant answer give."""
    from clip2clap.evaluation import leaderboard

    part = results.figures["embeddings"]
    ranked = leaderboard(part)
    table = Table(box=None, pad_edge=False)
    table.add_column(f"on {part['rows']} rows ({part['split']})")
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


def _difference_table(differences: "list[Difference]") -> Table:
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
