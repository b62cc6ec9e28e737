"""The verb `evaluate`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import typer
from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    check_translator,
    choose_device,
    choose_dtype,
    require,
)
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
from clip2clap.cli.options.common import Output
from clip2clap.cli.options.data import (
    EvaluationInputs,
    EvaluationRun,
    GenerationToEvaluate,
    PairsToEvaluate,
)
from clip2clap.cli.progress import plain_console

_DEFAULT_LIMIT = 50_000
_DEFAULT_BATCH_SIZE = 8


def evaluate(
    read: EvaluationInputs,
    pairs: PairsToEvaluate,
    generation: GenerationToEvaluate,
    write: Output,
    run: EvaluationRun,
) -> None:
    """Evaluate translators against chance: on embedding pairs, generated audio or images, or both.

    Translators from CLIP to CLAP generate audio from --image-dir, those from CLAP to CLIP images
    from --audio-dir, or from the table's audio.

    With --compare, reports which differences between evaluations are significant.
    """
    if read.compare:
        count = len(read.inputs)
        require(count <= 2, "compare", f"expected one or two files, got {count}.")
        _compare(read.inputs, seed=run.seed, as_json=run.as_json)
        return
    _check(read, pairs, generation, run)
    output = write.output or _default_output(pairs)
    require(not output.is_file(), "output", f"{output} is a file, not a folder.")

    from clip2clap.evaluation.report.page import Illustrations, write_evaluation_page
    from clip2clap.evaluation.results import join_results

    console = Console(stderr=True)
    translators = load_translators(read.inputs)
    families = families_of(translators)
    level = "images" if families == ("clap", "clip") else "audio"
    if generation.pipeline is not None:
        (_check_images if level == "images" else _check_audio)(pairs, generation)
    rows = embeddings = generated = None
    illustrations = Illustrations()
    if pairs.table is not None:
        rows, embeddings, illustrations = _measure_pairs(console, translators, pairs, run)
    if generation.pipeline is not None:
        request = _request(generation, run)
        generated, illustrations = measure_generation(
            console, translators, illustrations, output, request=request, rows=rows
        )
    results = join_results(seed=run.seed, embeddings=embeddings, **{level: generated})
    with console.status("Writing the report"):
        results.write(output)
        page = write_evaluation_page(results, output, illustrations)
    if run.as_json:
        typer.echo(json.dumps(results.metrics, indent=2))
        return
    out = _stdout()
    if embeddings is not None:
        out.print(embedding_table(results))
    if generated is not None:
        out.print(generation_table(results, level))
        if generation.round_trip is not None:
            out.print(round_trip_table(generated[0]))
    out.print(f"Report: {page}", soft_wrap=True)


def _measure_pairs(
    console: Console, translators: Any, pairs: PairsToEvaluate, run: EvaluationRun
) -> Any:
    assert pairs.table is not None
    families = families_of(translators)
    return measure_embeddings(
        console,
        translators,
        pairs.table,
        columns={
            "source": pairs.source or families[0],
            "target": pairs.target or families[1],
            "item": pairs.item,
            "labels": pairs.labels,
        },
        split=_split(pairs),
        limit=pairs.limit or _DEFAULT_LIMIT,
        resamples=run.resamples,
        seed=run.seed,
    )


def _request(generation: GenerationToEvaluate, run: EvaluationRun) -> GenerationRequest:
    from clip2clap.evaluation.cache import GenerationConfig

    device = choose_device(run.device)
    named = ("clip", "clap", "classifier", "back", "round_trip", "contact_sheet")
    return GenerationRequest(
        pipeline=str(generation.pipeline),
        config=GenerationConfig(
            seed=run.seed,
            num_inference_steps=generation.num_inference_steps,
            audio_length_in_s=generation.duration_s,
            batch_size=run.batch_size or _DEFAULT_BATCH_SIZE,
            resamples=run.resamples,
        ),
        device=device,
        dtype=choose_dtype(run.dtype, device),
        images=generation.image_dir,
        recordings=generation.audio_dir,
        **{name: getattr(generation, name) for name in named},
    )


def write_report(translator: Path, table: Path, output: Path, *, seed: int) -> Path:
    """Evaluate a translator on held-out pairs of its table, as the verb does by default.

    Args:
        translator: Folder of the translator.
        table: Table that it was trained on.
        output: Folder of `report.html` and `results.json`.
        seed: Seed of the bootstrap.

    Returns:
        Path of the page.
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
        limit=_DEFAULT_LIMIT,
        resamples=1000,
        seed=seed,
    )
    results = join_results(seed=seed, embeddings=embeddings)
    with console.status("Writing the report"):
        results.write(output)
        return write_evaluation_page(results, output, illustrations)


def _check(
    read: EvaluationInputs,
    pairs: PairsToEvaluate,
    generation: GenerationToEvaluate,
    run: EvaluationRun,
) -> None:
    require(
        pairs.table or generation.image_dir or generation.audio_dir,
        "table",
        "name the pairs to evaluate on, or --pipeline and --image-dir or --audio-dir to evaluate "
        "what is generated from these.",
    )
    about_generation = ("image_dir", "audio_dir", "clap", "classifier", "back", "round_trip")
    require(
        generation.pipeline is not None
        or not any(getattr(generation, name) for name in (*about_generation, "contact_sheet")),
        "pipeline",
        "--image-dir, --audio-dir, --clap, --classifier, --back, --round-trip and --contact-sheet "
        "are about generated audio or images. Name the pipeline that generates them.",
    )
    for owner, param in ((pairs, "table"), (generation, "image_dir"), (generation, "audio_dir")):
        folder = getattr(owner, param)
        require(folder is None or folder.is_dir(), param, f"{folder} is not a folder.")
    for name in read.inputs:
        check_translator(name, "inputs")
    _split(pairs)
    check_device(run.device, run.dtype)


def _split(pairs: PairsToEvaluate) -> SplitName:
    splits, split = get_args(SplitName), pairs.split or "auto"
    require(split in splits, "split", f"expected one of {', '.join(splits)}, got {split!r}.")
    return cast(SplitName, split)


def _default_output(pairs: PairsToEvaluate) -> Path:
    if pairs.table is None:
        return Path("clip2clap-evaluate")
    table = pairs.table.absolute()
    return table.with_name(f"{table.name}-report")


def _check_images(pairs: PairsToEvaluate, generation: GenerationToEvaluate) -> None:
    require(
        generation.audio_dir or pairs.table,
        "audio_dir",
        "the translators map from CLAP to CLIP, so images are generated from audio. Name its "
        "folder, or a --table of it.",
    )
    for param, reason in (
        ("image_dir", "a table's audio is compared with the table's own images"),
        ("contact_sheet", "a contact sheet shows audio files"),
    ):
        require(
            generation.audio_dir or not getattr(generation, param),
            param,
            f"{reason}. Name the folder of --audio-dir.",
        )
    for param, reason in (
        ("back", "the CLIP-score is of audio"),
        ("duration_s", "it is the length of generated audio"),
    ):
        require(
            getattr(generation, param) is None,
            param,
            f"{reason}, and these translators, from CLAP to CLIP, generate images.",
        )


def _check_audio(pairs: PairsToEvaluate, generation: GenerationToEvaluate) -> None:
    require(
        generation.image_dir is not None,
        "image_dir",
        "the translators map from CLIP to CLAP, so audio is generated from images. Name their "
        "folder. Translators of the opposite direction, such as demo-back, generate images from "
        "--audio-dir.",
    )
    require(
        not generation.contact_sheet,
        "contact_sheet",
        "it shows images, and these translators, from CLIP to CLAP, generate audio.",
    )


def _compare(paths: list[str], *, seed: int, as_json: bool) -> None:
    for path in paths:
        check_exists(path, "inputs")

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
    """Return the console of stdout; a file has wide lines."""
    out = plain_console()
    return out if out.is_terminal else plain_console(width=160)
