"""Work of `clip2clap evaluate`: loading the models, and measuring with progress bars."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from clip2clap.cli.checks import require
from clip2clap.cli.loading import load_decoder, load_generator
from clip2clap.cli.progress import share_bar

if TYPE_CHECKING:
    from clip2clap.evaluation.cache import GenerationConfig
    from clip2clap.evaluation.classifiers import Classifier
    from clip2clap.evaluation.report.page import Illustrations
    from clip2clap.evaluation.results import Part
    from clip2clap.evaluation.rows import EvaluatedRows
    from clip2clap.translator.base import Translator

SplitName = Literal["auto", "test", "validation", "train", "held-out", "all"]
Loaded = dict[str, "tuple[str, Translator]"]

SHEET_FILE = "contact-sheet.png"


@dataclass(frozen=True)
class GenerationRequest:
    """Models, folders and options of an evaluation of generated audio or images."""

    pipeline: str
    """Pipeline: demo, a preset, a hub id or a folder."""

    config: "GenerationConfig"
    """Seed, steps, length, batch size and bootstrap draws."""

    device: Any
    """Device."""

    dtype: Any
    """Data type of the generator."""

    images: Path | None = None
    """Folder of images."""

    recordings: Path | None = None
    """Folder of audio; for images without it, a table's rows."""

    clip: str | None = None
    """CLIP: of audio the image encoder, of images the measuring one."""

    clap: str | None = None
    """CLAP: of audio the measuring one, of images the audio encoder."""

    classifier: str | None = None
    """Classifier of transformers; zero-shot if None."""

    back: str | None = None
    """Translator from the measuring CLAP into the CLIP."""

    round_trip: str | None = None
    """Pipeline of the way back."""

    contact_sheet: bool = False
    """True to write a contact sheet."""


def load_translators(names: list[str]) -> Loaded:
    """Load translators by the shortest distinct ends of their paths."""
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
    """Return the translators' source and target family; CLIP and CLAP if unknown.

    Returns:
        `("clip", "clap")` for audio from images, `("clap", "clip")` for images from audio.

    Raises:
        UserError: If they have both directions.
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
        "inputs",
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
) -> "tuple[EvaluatedRows, Part, Illustrations]":
    """Evaluate translators on the pairs of a table.

    Args:
        console: Console of the progress bar.
        translators: Translators from `load_translators`.
        table: Folder of the table.
        columns: `source`, `target`, `item` and `labels`.
        split: Rows to evaluate on.
        limit: Maximum number of rows.
        resamples: Bootstrap draws.
        seed: Seed of the bootstrap.

    Returns:
        Rows, results, and illustrations of the report.
    """
    from clip2clap.evaluation.report.page import Illustrations
    from clip2clap.evaluation.results import embedding_results
    from clip2clap.evaluation.rows import choose_rows
    from clip2clap.evaluation.translation import evaluate

    folders = [folder for folder, _ in translators.values()]
    rows = choose_rows(table, folders, split=split, limit=limit, **columns)
    with share_bar(console, "Evaluating") as advance:
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
    return rows, part, Illustrations(clouds=evaluation.clouds, texts=rows.texts)


def measure_generation(
    console: Console,
    translators: Loaded,
    illustrations: "Illustrations",
    folder: Path,
    *,
    request: GenerationRequest,
    rows: "EvaluatedRows | None" = None,
) -> "tuple[Part, Illustrations]":
    """Generate audio from images, or images from audio, with each translator, and measure it.

    Args:
        console: Console of the progress bar.
        translators: Translators from `load_translators`, all of one direction.
        illustrations: Illustrations so far.
        folder: Folder of the report; generated files go into `audio` or `images` in it.
        request: Models, folders and options.
        rows: Rows of the table, for images without a folder of audio.

    Returns:
        Results, and illustrations with the examples.
    """
    from clip2clap.evaluation.datasets import (
        audio_dataset_from_rows,
        read_audio_dataset,
        read_image_dataset,
    )
    from clip2clap.evaluation.generation.base import generation_results
    from clip2clap.evaluation.report.examples import select_examples

    named = {name: translator for name, (_, translator) in translators.items()}
    first = next(iter(translators.values()))[0]
    if families_of(translators) == ("clip", "clap"):
        assert request.images is not None
        dataset = read_image_dataset(request.images, request.recordings)
        source = str(request.images)
        evaluation = _generate_audio(console, first, named, dataset, folder / "audio", request)
    else:
        if request.recordings is not None:
            dataset = read_audio_dataset(request.recordings, request.images)
            source = str(request.recordings)
        else:
            assert rows is not None
            dataset = audio_dataset_from_rows(rows)
            source = f"column {rows.pairs.source_column} of the table"
        evaluation = _generate_images(console, first, named, dataset, folder, request)
    best, worst = select_examples(evaluation, dataset)
    part = generation_results(evaluation, dataset, folder=source, pipeline=request.pipeline)
    return part, replace(illustrations, best=best, worst=worst)


def _generate_audio(
    console: Console,
    first: str,
    translators: "dict[str, Translator]",
    dataset: Any,
    folder: Path,
    request: GenerationRequest,
) -> Any:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.evaluation.generation.audio import evaluate_audio
    from clip2clap.translator.auto import AutoTranslator

    models = {"device": request.device, "dtype": request.dtype}
    with console.status("Loading the models"):
        pipeline = load_generator(request.pipeline, clip=request.clip, translator=first, **models)
        name = request.clap or pipeline.config["clap_id"]
        require(
            name is not None,
            "clap",
            f"{request.pipeline} does not name its CLAP. Name one to measure with.",
        )
        clap = ClapEncoder.from_pretrained(name, device=request.device)
        require(
            "audio" in clap.modalities,
            "clap",
            f"{name} is a text-only CLAP. Name one with an audio encoder, such as "
            "clap-htsat-unfused.",
        )
        classifier = _load_classifier(request, clap, dataset.labels, "audio-classification")
        back = request.back and AutoTranslator.from_pretrained(request.back)
        round_trip = request.round_trip and load_decoder(request.round_trip, **models)
    with share_bar(console, "Generating audio") as advance:
        return evaluate_audio(
            pipeline,
            translators,
            dataset,
            folder,
            clap=clap,
            classifier=classifier,
            back=back or None,
            round_trip=round_trip or None,
            config=request.config,
            on_progress=advance,
        )


def _generate_images(
    console: Console,
    first: str,
    translators: "dict[str, Translator]",
    dataset: Any,
    folder: Path,
    request: GenerationRequest,
) -> Any:
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.evaluation.generation.images import evaluate_images
    from clip2clap.evaluation.report.contact_sheet import sheet_rows, write_contact_sheet

    models = {"device": request.device, "dtype": request.dtype}
    with console.status("Loading the models"):
        pipeline = load_decoder(request.pipeline, clap=request.clap, translator=first, **models)
        clip = pipeline.clip
        if request.clip is not None:
            clip = ClipEncoder.from_pretrained(request.clip, device=request.device)
        require(
            clip is not None and "image" in clip.modalities,
            "clip",
            f"{request.clip or request.pipeline} has no CLIP image encoder. Name one to measure "
            "with.",
        )
        assert clip is not None
        classifier = _load_classifier(request, clip, dataset.labels, "image-classification")
        round_trip = request.round_trip and load_generator(request.round_trip, **models)
    with share_bar(console, "Generating images") as advance:
        evaluation = evaluate_images(
            pipeline,
            translators,
            dataset,
            folder / "images",
            clip=clip,
            classifier=classifier,
            round_trip=round_trip or None,
            config=request.config,
            on_progress=advance,
        )
    if request.contact_sheet:
        with console.status("Generating the contact sheet"):
            translator = next(iter(translators.values()))
            shown = sheet_rows(pipeline, translator, dataset, config=request.config)
            write_contact_sheet(folder / SHEET_FILE, shown)
    return evaluation


def _load_classifier(
    request: GenerationRequest,
    encoder: Any,
    labels: list[str],
    task: Literal["audio-classification", "image-classification"],
) -> "Classifier | None":
    """Load the requested classifier, or a zero-shot one; None without labels."""
    from clip2clap.evaluation.classifiers import TransformersClassifier, ZeroShotClassifier

    if len(labels) < 2:
        return None
    if request.classifier is not None:
        return TransformersClassifier(request.classifier, labels, task=task)
    return ZeroShotClassifier(encoder, labels) if "text" in encoder.modalities else None
