"""`clip2clap evaluate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from clip2clap.cli.measuring import (
    GenerationRequest,
    SplitName,
    families_of,
    load_translators,
    measure_embeddings,
    measure_generation,
)
from clip2clap.cli.metric_tables import (
    difference_table,
    embedding_table,
    generation_table,
    round_trip_table,
)
from clip2clap.cli.options import (
    Device,
    Dtype,
    Json,
    Seed,
    check_counts,
    check_seed,
    choose_device,
    choose_dtype,
    require,
)

_MADE = "Sounds and pictures"


def evaluate(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="TRANSLATOR...",
            help="Translators: folders, hub ids, demo or demo-back. With --compare: one or two "
            "results.json.",
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
            help="Map from here; by default the only column of the translators' CLIP or CLAP.",
            rich_help_panel="Pairs",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Map to here; by default the only column of the other.",
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
            help="Make sounds or pictures too: demo, a preset, a hub id or a folder, as --model of "
            "image-to-audio, or of audio-to-image if the translators go from CLAP to CLIP.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Photographs to make sounds of, or real ones to hold pictures against; a folder "
            "in it names the class.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Recordings to make pictures of, by default the table's; or real ones to hold "
            "sounds against. A folder in it names the class.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLIP: of sounds, what sees the photographs, by default the pipeline's or the "
            "translator's; of pictures, what measures, by default the decoder's own, better "
            "another.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLAP: of sounds, what measures, by default the generator's own, better "
            "another; of pictures, what hears the recordings, by default the pipeline's or the "
            "translator's.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A classifier of sounds, or of pictures, that knows the classes; by default the "
            "CLAP's, or the CLIP's, words.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    back: Annotated[
        str | None,
        typer.Option(
            metavar="TRANSLATOR",
            help="From the measuring CLAP into the CLIP, for the CLIP-score of sounds.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    round_trip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A pipeline of the way back, through which all that was made goes too; the end is "
            "held against the start.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    contact_sheet: Annotated[
        bool,
        typer.Option(
            "--contact-sheet",
            help="Also write contact-sheet.png: a recording of each class and three pictures of "
            "it, by the first translator.",
            rich_help_panel=_MADE,
        ),
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Denoising steps; 10 to 25 are enough.", rich_help_panel=_MADE
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            help="Length of a sound; by default what the model learned.",
            rich_help_panel=_MADE,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            metavar="N", help="Sounds or pictures made at a time.", rich_help_panel="Running"
        ),
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
    """Measure translators beside chance, on pairs of embeddings, by what they make, or both.

    Translators from CLIP to CLAP make sounds of --images, those from CLAP to CLIP pictures of
    --recordings, or of the table's recordings.

    With --compare, say which differences between evaluations are real.
    """
    check_seed(seed)
    require(resamples >= 100, "--resamples", f"expected at least 100, got {resamples}.")
    if compare:
        require(len(inputs) <= 2, "--compare", f"expected one or two, got {len(inputs)}.")
        _compare(inputs, seed=seed, as_json=as_json)
        return
    require(
        table is not None or images is not None or recordings is not None,
        "--table",
        "name the pairs to measure on, or --pipeline and --images or --recordings to measure what "
        "is made of these.",
    )
    require(output is not None, "--output", "name the folder of the report.")
    assert output is not None
    require(not output.is_file(), "--output", f"{output} is a file, not a folder.")
    require(
        pipeline is not None
        or not any((images, recordings, clap, classifier, back, round_trip, contact_sheet)),
        "--pipeline",
        "--images, --recordings, --clap, --classifier, --back, --round-trip and --contact-sheet "
        "are about sounds or pictures. Name what makes them.",
    )
    check_counts(batch_size=batch_size, steps=steps)
    torch_device = choose_device(device)
    torch_dtype = choose_dtype(dtype, torch_device)

    from clip2clap.evaluation.cache import GenerationConfig
    from clip2clap.evaluation.report.page import Illustrations, write_evaluation_page
    from clip2clap.evaluation.results import join_results

    console = Console(stderr=True)
    translators = load_translators(inputs)
    families = families_of(translators)
    paints = families == ("clap", "clip")
    if pipeline is not None:
        given = {"images": images, "recordings": recordings, "table": table, "back": back}
        given |= {"seconds": seconds, "contact_sheet": contact_sheet}
        (_check_pictures if paints else _check_sounds)(given)
    illustrations = Illustrations()
    rows = embeddings = generated = None
    level = "images" if paints else "audio"
    if table is not None:
        rows, embeddings, illustrations = measure_embeddings(
            console,
            translators,
            table,
            columns={
                "source": source or families[0],
                "target": target or families[1],
                "item": item,
                "labels": labels,
            },
            split=split,
            limit=limit,
            resamples=resamples,
            seed=seed,
        )
    if pipeline is not None:
        generated, illustrations = measure_generation(
            console,
            translators,
            illustrations,
            output,
            request=GenerationRequest(
                pipeline=pipeline,
                config=GenerationConfig(
                    seed=seed,
                    num_inference_steps=steps,
                    audio_length_in_s=seconds,
                    batch_size=batch_size,
                    resamples=resamples,
                ),
                device=torch_device,
                dtype=torch_dtype,
                images=images,
                recordings=recordings,
                clip=clip,
                clap=clap,
                classifier=classifier,
                back=back,
                round_trip=round_trip,
                contact_sheet=contact_sheet,
            ),
            rows=rows,
        )
    results = join_results(seed=seed, embeddings=embeddings, **{level: generated})
    with console.status("Writing the report"):
        results.write(output)
        page = write_evaluation_page(results, output, illustrations)
    if as_json:
        typer.echo(json.dumps(results.metrics, indent=2))
        return
    out = _stdout()
    if embeddings is not None:
        out.print(embedding_table(results))
    if generated is not None:
        out.print(generation_table(results, level))
        if round_trip is not None:
            out.print(round_trip_table(generated[0]))
    out.print(f"The whole report: {page}", soft_wrap=True)


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
    from clip2clap.evaluation.report.page import write_evaluation_page
    from clip2clap.evaluation.results import join_results

    console = Console(stderr=True)
    _, embeddings, illustrations = measure_embeddings(
        console,
        load_translators([str(translator)]),
        table,
        columns=dict.fromkeys(("source", "target", "item", "labels")),
        split="auto",
        limit=50_000,
        resamples=1000,
        seed=seed,
    )
    results = join_results(seed=seed, embeddings=embeddings)
    with console.status("Writing the report"):
        results.write(output)
        return write_evaluation_page(results, output, illustrations)


def _check_pictures(given: dict[str, Any]) -> None:
    require(
        given["recordings"] or given["table"],
        "--recordings",
        "the translators go from CLAP to CLIP, so pictures are made of recordings. Name their "
        "folder, or a --table of them.",
    )
    for name, reason in (
        ("images", "a table's pictures are held against its own"),
        ("contact_sheet", "a contact sheet shows recordings"),
    ):
        require(
            given["recordings"] or not given[name],
            f"--{name.replace('_', '-')}",
            f"{reason}. Name the folder of --recordings.",
        )
    for name, reason in (
        ("back", "the CLIP-score is of sounds"),
        ("seconds", "it is the length of sounds"),
    ):
        require(
            given[name] is None,
            f"--{name}",
            f"{reason}, and these translators, from CLAP to CLIP, make pictures.",
        )


def _check_sounds(given: dict[str, Any]) -> None:
    require(
        given["images"] is not None,
        "--images",
        "the translators go from CLIP to CLAP, so sounds are made of photographs. Name their "
        "folder. Those of the way back, such as demo-back, make pictures of --recordings.",
    )
    require(
        not given["contact_sheet"],
        "--contact-sheet",
        "it shows pictures, and these translators, from CLIP to CLAP, make sounds.",
    )


def _compare(paths: list[str], *, seed: int, as_json: bool) -> None:
    from clip2clap.evaluation.comparison import compare_results
    from clip2clap.evaluation.results import Results

    differences = compare_results(*(Results.read(path) for path in paths), seed=seed)
    if as_json:
        found = [{**asdict(one), "is_significant": one.is_significant} for one in differences]
        typer.echo(json.dumps(found, indent=2))
        return
    out = _stdout()
    out.print(difference_table(differences))
    significant = sum(one.is_significant for one in differences)
    out.print(f"{significant} of {len(differences)} differences are significant.")


def _stdout() -> Console:
    """Give the console of stdout; a file has room for whole lines."""
    out = Console(highlight=False, markup=False)
    return out if out.is_terminal else Console(highlight=False, markup=False, width=160)
