"""The work of `clip2clap evaluate`: loads what was named, and measures it."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from clip2clap.cli.loading import load_decoder, load_generator
from clip2clap.cli.options import require
from clip2clap.cli.progress import share_bar

if TYPE_CHECKING:
    from clip2clap.evaluation.report.page import Exhibits
    from clip2clap.evaluation.rows import EvaluatedRows
    from clip2clap.translator.base import Translator

SplitName = Literal["auto", "test", "validation", "train", "held-out", "all"]
Part = tuple[dict[str, Any], dict[str, Any]]
Loaded = dict[str, "tuple[str, Translator]"]

SHEET_FILE = "contact-sheet.png"


def load_translators(names: list[str]) -> "dict[str, tuple[str, Translator]]":
    """Load translators under the shortest names that tell them apart."""
    from clip2clap.translator.auto import AutoTranslator

    parts = {name: Path(name).parts for name in names}
    loaded = {}
    for name, own in parts.items():
        others = [other for other in parts.values() if other != own]
        length = 1
        while length < len(own) and any(other[-length:] == own[-length:] for other in others):
            length += 1
        loaded["/".join(own[-length:])] = (name, AutoTranslator.from_pretrained(name))
    return loaded


def families_of(translators: Loaded) -> tuple[str, str]:
    """Tell which way translators go; those that don't know it go from CLIP to CLAP.

    Returns:
        `("clip", "clap")`, which makes sounds of photographs, or `("clap", "clip")`, which makes
        pictures of recordings.

    Raises:
        OptionError: If they go both ways.
    """
    ways: dict[bool, str] = {}
    for name, (_, translator) in translators.items():
        source, target = translator.source_space, translator.target_space
        back = (source is not None and source.family == "clap") or (
            target is not None and target.family == "clip"
        )
        ways.setdefault(back, name)
    require(
        len(ways) == 1,
        "TRANSLATOR",
        f"{ways.get(True)} goes from CLAP to CLIP and {ways.get(False)} from CLIP to CLAP. "
        "Evaluate those of one direction at a time.",
    )
    return ("clap", "clip") if True in ways else ("clip", "clap")


def measure_embeddings(
    console: Console,
    translators: Loaded,
    table: Path,
    *,
    columns: dict[str, str | None],
    split: SplitName,
    limit: int,
    resamples: int,
    seed: int,
) -> "tuple[EvaluatedRows, Part, Exhibits]":
    """Measure translators on a table's pairs.

    Args:
        console: Shows the progress.
        translators: As `load_translators` gives them.
        table: The table's folder.
        columns: `source`, `target`, `item` and `labels`.
        split: Which rows to take.
        limit: Rows at most.
        resamples: Draws of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        The rows, what was measured on them, and what to show beside it.
    """
    from clip2clap.evaluation.report.page import Exhibits
    from clip2clap.evaluation.results import embedding_results
    from clip2clap.evaluation.rows import choose_rows
    from clip2clap.evaluation.translation import evaluate

    folders = [folder for folder, _ in translators.values()]
    rows = choose_rows(table, folders, split=split, limit=limit, **columns)
    with share_bar(console, "Measuring") as advance:
        evaluation = evaluate(
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
    return rows, part, Exhibits(clouds=evaluation.clouds, texts=rows.texts)


def measure_sounds(
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
    """Make sounds of photographs by each translator, and measure them.

    Args:
        console: Shows the progress.
        translators: As `load_translators` gives them.
        exhibits: What is shown so far.
        images: The folder of photographs.
        recordings: The folder of real sounds.
        folder: Where sounds go.
        models: `pipeline`, `clip`, `clap`, `classifier`, `back` and `round_trip`, by their names.
        device: Where to compute.
        dtype: The generator's number format.
        calls: What else `evaluate_audio` is called with.

    Returns:
        What was measured, and what to show beside it.
    """
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.evaluation.classifiers import TransformersClassifier, ZeroShotClassifier
    from clip2clap.evaluation.datasets.images import read_image_dataset
    from clip2clap.evaluation.generation.audio import audio_results, evaluate_audio
    from clip2clap.evaluation.report.examples import best_and_worst
    from clip2clap.translator.auto import AutoTranslator

    image_items = read_image_dataset(images, recordings)
    with console.status("Loading the models"):
        pipeline = load_generator(
            models["pipeline"],
            clip=models["clip"],
            translator=next(iter(translators.values()))[0],
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
        if len(image_items.labels) > 1:
            classifier = models["classifier"]
            named = (
                TransformersClassifier(classifier, image_items.labels)
                if classifier
                else ZeroShotClassifier(clap, image_items.labels)
            )
        back = models["back"] and AutoTranslator.from_pretrained(models["back"])
        round_trip = models["round_trip"] and load_decoder(
            models["round_trip"], device=device, dtype=dtype
        )
    with share_bar(console, "Making sounds") as advance:
        evaluation = evaluate_audio(
            pipeline,
            {name: translator for name, (_, translator) in translators.items()},
            image_items,
            folder,
            clap=clap,
            classifier=named,
            back=back,
            round_trip=round_trip,
            on_progress=advance,
            **calls,
        )
    best, worst = best_and_worst(evaluation, image_items)
    part = audio_results(evaluation, image_items, images=str(images), pipeline=models["pipeline"])
    return part, replace(exhibits, best=best, worst=worst)


def measure_pictures(
    console: Console,
    translators: Loaded,
    exhibits: "Exhibits",
    *,
    recordings: Path | None,
    images: Path | None,
    rows: "EvaluatedRows | None",
    folder: Path,
    models: dict[str, Any],
    device: Any,
    dtype: Any,
    contact_sheet: bool,
    calls: dict[str, Any],
) -> "tuple[Part, Exhibits]":
    """Make pictures of recordings by each translator, and measure them.

    Args:
        console: Shows the progress.
        translators: As `load_translators` gives them.
        exhibits: What is shown so far.
        recordings: The folder of recordings; None to take those of `rows`.
        images: The folder of real pictures.
        rows: A table's.
        folder: Of the report; pictures go into `pictures` in it.
        models: `pipeline`, `clip`, `clap`, `classifier` and `round_trip`, by their names.
        device: Where to compute.
        dtype: The decoder's number format.
        contact_sheet: Whether to write one.
        calls: What else `evaluate_images` is called with.

    Returns:
        What was measured, and what to show beside it.
    """
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.evaluation.classifiers import TransformersClassifier, ZeroShotClassifier
    from clip2clap.evaluation.datasets.audio import audio_dataset_of_rows, read_audio_dataset
    from clip2clap.evaluation.generation.images import evaluate_images, image_results
    from clip2clap.evaluation.report.contact_sheet import sheet_rows, write_contact_sheet
    from clip2clap.evaluation.report.examples import best_and_worst_images

    if recordings is not None:
        audio_items, place = read_audio_dataset(recordings, images), str(recordings)
    else:
        assert rows is not None
        audio_items, place = audio_dataset_of_rows(rows), f"{rows.pairs.source_column} of the table"
    named = {name: translator for name, (_, translator) in translators.items()}
    with console.status("Loading the models"):
        pipeline = load_decoder(
            models["pipeline"],
            clap=models["clap"],
            translator=next(iter(translators.values()))[0],
            device=device,
            dtype=dtype,
        )
        named_clip = models["clip"]
        clip = (
            ClipEncoder.from_pretrained(named_clip, device=device) if named_clip else pipeline.clip
        )
        require(
            clip is not None and "image" in clip.modalities,
            "--clip",
            f"{named_clip or models['pipeline']} brings no CLIP that sees. Name one to measure "
            "with, with a picture tower.",
        )
        assert clip is not None
        classifier = None
        if len(audio_items.labels) > 1:
            who, kinds = models["classifier"], audio_items.labels
            if who:
                classifier = TransformersClassifier(who, kinds, task="image-classification")
            elif "text" in clip.modalities:
                classifier = ZeroShotClassifier(clip, kinds)
        round_trip = models["round_trip"] and load_generator(
            models["round_trip"], device=device, dtype=dtype
        )
    with share_bar(console, "Making pictures") as advance:
        evaluation = evaluate_images(
            pipeline,
            named,
            audio_items,
            folder / "pictures",
            clip=clip,
            classifier=classifier,
            round_trip=round_trip,
            on_progress=advance,
            **calls,
        )
    if contact_sheet:
        options = ("seed", "num_inference_steps", "batch_size")
        with console.status("Making the contact sheet"):
            shown = sheet_rows(
                pipeline,
                next(iter(named.values())),
                audio_items,
                **{option: calls[option] for option in options},
            )
            write_contact_sheet(folder / SHEET_FILE, shown)
    best, worst = best_and_worst_images(evaluation, audio_items)
    part = image_results(evaluation, audio_items, recordings=place, pipeline=models["pipeline"])
    return part, replace(exhibits, best=best, worst=worst)
