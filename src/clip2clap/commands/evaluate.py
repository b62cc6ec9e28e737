"""`clip2clap evaluate`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clip2clap.commands.image_to_audio import load_pipeline
from clip2clap.commands.options import (
    Device,
    Dtype,
    Json,
    Seed,
    check_seed,
    choose_device,
    choose_dtype,
    require,
)

if TYPE_CHECKING:
    from clip2clap.evaluation import Difference, Exhibits, Results
    from clip2clap.translator import Translator

SplitName = Literal["auto", "test", "validation", "train", "held-out", "all"]
_SIMILARITIES = ("clap_score", "translated")


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
        SplitName,
        typer.Option(
            help="Rows to measure on; auto takes what was held out.", rich_help_panel="Pairs"
        ),
    ] = "auto",
    limit: Annotated[
        int, typer.Option(metavar="N", help="Rows at most.", rich_help_panel="Pairs")
    ] = 50_000,
    pipeline: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Make sounds too: demo, a preset, a hub id or a folder, as --model of "
            "image-to-audio.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photographs to make sounds of; a folder in it names the class.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Real sounds to hold them against, if they don't lie beside the photographs.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLIP; by default the pipeline's or the translator's.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLAP that measures; by default the generator's own. Better another.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="An audio classifier that knows the classes; by default the CLAP's words.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(
            metavar="TRANSLATOR",
            help="From the measuring CLAP into the CLIP, for the CLIP-score.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps; 10 to 25 are enough.", rich_help_panel="Sounds"
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Length of a sound; by default what the model learned.",
            rich_help_panel="Sounds",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(metavar="N", help="Sounds made at a time.", rich_help_panel="Running"),
    ] = 8,
    device: Device = "auto",
    dtype: Dtype = "auto",
    resamples: Annotated[
        int,
        typer.Option(metavar="N", help="Draws of the bootstrap.", rich_help_panel="Running"),
    ] = 1000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure translators beside chance, on pairs of embeddings, by their sounds, or both.

    With --compare, say which differences between evaluations are real.
    """
    check_seed(seed)
    require(resamples >= 100, "--resamples", f"expected at least 100, got {resamples}.")
    if compare:
        require(len(inputs) <= 2, "--compare", f"expected one or two, got {len(inputs)}.")
        _compare(inputs, seed=seed, as_json=as_json)
        return
    require(
        table is not None or images is not None,
        "--table",
        "name the pairs to measure on, or --images and --pipeline to measure sounds.",
    )
    require(output is not None, "--output", "name the folder of the report.")
    assert output is not None
    require(not output.is_file(), "--output", f"{output} is a file, not a folder.")
    require(
        (images is None) == (pipeline is None),
        "--pipeline",
        "sounds need both --pipeline, what makes them, and --images, what of.",
    )
    require(
        images is not None or not any((recordings, clap, judge, back)),
        "--images",
        "--recordings, --clap, --judge and --back are about sounds. Name the photographs.",
    )
    require(batch_size >= 1, "--batch-size", f"expected at least 1, got {batch_size}.")
    require(steps is None or steps >= 1, "--steps", f"expected at least 1, got {steps}.")
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)

    from clip2clap.evaluation import Exhibits, join_results, write_evaluation_page

    console = Console(stderr=True)
    translators = _load(inputs)
    exhibits = Exhibits()
    embeddings = sounds = None
    if table is not None:
        embeddings, exhibits = _measure_embeddings(
            console,
            translators,
            table,
            columns={"source": source, "target": target, "item": item, "labels": labels},
            split=split,
            limit=limit,
            resamples=resamples,
            seed=seed,
        )
    if images is not None and pipeline is not None:
        sounds, exhibits = _measure_sounds(
            console,
            translators,
            exhibits,
            images=images,
            recordings=recordings,
            folder=output / "sounds",
            models={"pipeline": pipeline, "clip": clip, "clap": clap, "judge": judge, "back": back},
            device=torch_device,
            dtype=torch_dtype,
            calls={
                "seed": seed,
                "num_inference_steps": steps,
                "audio_length_in_s": seconds,
                "batch_size": batch_size,
                "resamples": resamples,
            },
        )
    results = join_results(embeddings, sounds, seed=seed)
    with console.status("Writing the report"):
        results.write(output)
        page = write_evaluation_page(results, output, exhibits)
    if as_json:
        typer.echo(json.dumps(results.figures, indent=2))
        return
    out = _stdout()
    if embeddings is not None:
        out.print(_embedding_table(results))
    if sounds is not None:
        out.print(_sound_table(results))
    out.print(f"The whole report: {page}", soft_wrap=True)


Part = tuple[dict[str, Any], dict[str, Any]]
Loaded = dict[str, "tuple[str, Translator]"]


def write_report(translator: Path, table: Path, output: Path, *, seed: int) -> Path:
    """Measure a translator on what was held out of its table, as the command does by default.

    Args:
        translator: Its folder.
        table: The table it was trained on.
        output: Where `report.html` and `results.json` go.
        seed: Of the bootstrap.

    Returns:
        The page.
    """
    from clip2clap.evaluation import join_results, write_evaluation_page

    console = Console(stderr=True)
    embeddings, exhibits = _measure_embeddings(
        console,
        _load([str(translator)]),
        table,
        columns=dict.fromkeys(("source", "target", "item", "labels")),
        split="auto",
        limit=50_000,
        resamples=1000,
        seed=seed,
    )
    results = join_results(embeddings, None, seed=seed)
    with console.status("Writing the report"):
        results.write(output)
        return write_evaluation_page(results, output, exhibits)


def _measure_embeddings(
    console: Console,
    translators: Loaded,
    table: Path,
    *,
    columns: dict[str, str | None],
    split: SplitName,
    limit: int,
    resamples: int,
    seed: int,
) -> "tuple[Part, Exhibits]":
    from clip2clap.evaluation import (
        Exhibits,
        choose_rows,
        embedding_results,
        evaluate_embeddings,
    )

    folders = [folder for folder, _ in translators.values()]
    rows = choose_rows(table, folders, split=split, limit=limit, **columns)
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
    part = embedding_results(
        rows, evaluation, translators, table=str(table), labels=columns["labels"]
    )
    return part, Exhibits(clouds=evaluation.clouds, texts=rows.texts)


def _measure_sounds(
    console: Console,
    translators: Loaded,
    exhibits: "Exhibits",
    *,
    images: Path,
    recordings: Path | None,
    folder: Path,
    models: dict[str, Any],
    device: Any,
    dtype: Any,
    calls: dict[str, Any],
) -> "tuple[Part, Exhibits]":
    from clip2clap.embeddings import ClapEncoder
    from clip2clap.evaluation import (
        ClassifierJudge,
        ZeroShotJudge,
        best_and_worst,
        evaluate_sounds,
        read_stills,
        sound_results,
    )
    from clip2clap.translator import AutoTranslator

    stills = read_stills(images, recordings)
    with console.status("Loading the models"):
        pipeline = load_pipeline(
            models["pipeline"],
            clip=models["clip"],
            translator=next(iter(translators.values()))[0],
            ranker=None,
            ranker_translator=None,
            candidates=1,
            scheduler="default",
            device=device,
            dtype=dtype,
        )
        measuring = models["clap"] or pipeline.config["clap_id"]
        require(
            measuring is not None,
            "--clap",
            f"{models['pipeline']} doesn't say which CLAP it listens to. Name one to measure with.",
        )
        clap = ClapEncoder.from_pretrained(measuring, device=device)
        require(
            "audio" in clap.modalities,
            "--clap",
            f"{measuring} reads but does not hear. Name a CLAP with an audio tower, such as "
            "clap-htsat-unfused.",
        )
        named = None
        if len(stills.labels) > 1:
            judge = models["judge"]
            named = (
                ClassifierJudge(judge, stills.labels)
                if judge
                else ZeroShotJudge(clap, stills.labels)
            )
        back = models["back"] and AutoTranslator.from_pretrained(models["back"])
    with _progress(console, "Making sounds") as advance:
        evaluation = evaluate_sounds(
            pipeline,
            {name: translator for name, (_, translator) in translators.items()},
            stills,
            folder,
            clap=clap,
            judge=named,
            back=back,
            on_progress=advance,
            **calls,
        )
    best, worst = best_and_worst(evaluation, stills)
    part = sound_results(evaluation, stills, images=str(images), pipeline=models["pipeline"])
    return part, replace(exhibits, best=best, worst=worst)


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


def _sound_table(results: "Results") -> Table:
    """Lay the sounds out below the real ones, each above the control."""
    part = results.figures["sounds"]
    table = Table(box=None, pad_edge=False)
    table.add_column(f"sounds of {part['rows']} photographs, by {part['clap']}")
    for title in ("FD", "FAD", "kernel", "CLAP score", "translated", "judge", "CLIP-score", "s"):
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
            "" if scores["judge"] is None else _share(scores["judge"]),
            "" if scores["clip_score"] is None else f"{scores['clip_score']['value']:.1f}",
            "" if scores["seconds"] is None else f"{scores['seconds']:.2f}",
        )
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
