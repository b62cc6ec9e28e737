"""Work of `clip2clap evaluate`: loading the models, and measuring with progress bars."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import choose_device, choose_dtype, require
from clip2clap.cli.loading import load_pipeline
from clip2clap.cli.options.data import Evaluate
from clip2clap.cli.progress import note, share_bar

Loaded = dict[str, tuple[str, Any]]

_DEFAULT_LIMIT = 50_000
_DEFAULT_BATCH_SIZE = 8
_SHEET_FILE = "contact-sheet.png"


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


def level_of(translators: Loaded) -> str:
    """Return what the translators generate: `images` from CLAP to CLIP, `audio` else or if unknown.

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
    return "images" if True in ways else "audio"


def measure_embeddings(translators: Loaded, level: str, options: Evaluate) -> tuple[Any, Any, Any]:
    """Evaluate translators on the pairs of a table; returns rows, results and illustrations."""
    from clip2clap.evaluation.report.page import Illustrations
    from clip2clap.evaluation.results import embedding_results
    from clip2clap.evaluation.rows import choose_rows
    from clip2clap.evaluation.translation import evaluate

    table, families = options.table, ("clip", "clap") if level == "audio" else ("clap", "clip")
    assert table is not None
    rows = choose_rows(
        table,
        [folder for folder, _ in translators.values()],
        split=options.split or "auto",  # pyright: ignore[reportArgumentType] (checked before)
        source=options.source or families[0],
        target=options.target or families[1],
        item=options.item,
        labels=options.label_column,
        limit=options.limit or _DEFAULT_LIMIT,
    )
    with share_bar("Evaluating") as advance:
        evaluation = evaluate(
            {name: translator for name, (_, translator) in translators.items()},
            rows.pairs,
            labels=rows.labels,
            mean=rows.mean,
            resamples=options.resamples,
            seed=options.seed,
            on_progress=advance,
        )
    part = embedding_results(
        rows, evaluation, translators, table=str(table), labels=options.label_column
    )
    return rows, part, Illustrations(clouds=evaluation.clouds, texts=rows.texts)


def measure_generation(
    translators: Loaded, level: str, illustrations: Any, folder: Path, options: Evaluate, rows: Any
) -> tuple[Any, Any]:
    """Generate audio from images, or images from audio, with each translator, and measure it.

    Generated files go into `audio` or `images` in the report's folder; without a folder of audio,
    images are generated from the table's rows. Returns the results, and all illustrations.
    """
    from clip2clap.evaluation import datasets
    from clip2clap.evaluation.generation.base import generation_results
    from clip2clap.evaluation.report.examples import example_sections

    images, recordings = options.image_dir, options.audio_dir
    if level == "audio":
        assert images is not None
        dataset, source = datasets.read_image_dataset(images, recordings), str(images)
    elif recordings is not None:
        dataset, source = datasets.read_audio_dataset(recordings, images), str(recordings)
    else:
        dataset = datasets.audio_dataset_from_rows(rows)
        source = f"column {rows.pairs.source_column} of the table"
    require(
        dataset.labels or not options.contact_sheet,
        "audio_dir",
        "a contact sheet shows audio of each class. Name a folder with one subfolder per class.",
    )
    evaluation = _generate(level, translators, dataset, folder, options)
    part = generation_results(evaluation, dataset, folder=source, pipeline=str(options.pipeline))
    return part, replace(illustrations, examples=example_sections(evaluation, dataset))


def _generate(
    level: str, translators: Loaded, dataset: Any, folder: Path, options: Evaluate
) -> Any:
    """Load the models, and evaluate what each translator generates."""
    from clip2clap.evaluation.cache import GenerationConfig
    from clip2clap.evaluation.generation.audio import evaluate_audio
    from clip2clap.evaluation.generation.images import evaluate_images
    from clip2clap.evaluation.report.contact_sheet import sheet_rows, write_contact_sheet
    from clip2clap.translator.auto import AutoTranslator

    device = choose_device(options.device)
    access = {"device": device, "dtype": choose_dtype(options.dtype, device)}
    name, first = str(options.pipeline), next(iter(translators.values()))[0]
    named = {name: translator for name, (_, translator) in translators.items()}
    config = GenerationConfig(
        seed=options.seed,
        num_inference_steps=options.num_inference_steps,
        audio_length_in_s=options.duration_s,
        batch_size=options.batch_size or _DEFAULT_BATCH_SIZE,
        resamples=options.resamples,
    )
    models: dict[str, Any] = {}
    is_audio = level == "audio"
    with Console(stderr=True).status("Loading the models"):
        if is_audio:
            pipeline = load_pipeline(
                "generator", name, clip=options.clip, translator=first, **access
            )
            models["clap"] = encoder = _measuring_clap(pipeline, options, device)
            models["back"] = options.back and AutoTranslator.from_pretrained(options.back)
        else:
            pipeline = load_pipeline("decoder", name, clap=options.clap, translator=first, **access)
            models["clip"] = encoder = _measuring_clip(pipeline, options, device)
        task = "audio-classification" if is_audio else "image-classification"
        models["classifier"] = _classifier(options, encoder, dataset.labels, task)
        models["words"] = _words_route(options, pipeline, level, dataset, access)
        if options.round_trip:
            other = "decoder" if is_audio else "generator"
            models["round_trip"] = load_pipeline(other, options.round_trip, **access)
    measure: Any = evaluate_audio if is_audio else evaluate_images
    with share_bar(f"Generating {level}") as advance:
        evaluation = measure(
            pipeline, named, dataset, folder / level, config=config, on_progress=advance, **models
        )
    if options.contact_sheet:
        with Console(stderr=True).status("Generating the contact sheet"):
            shown = sheet_rows(pipeline, next(iter(named.values())), dataset, config=config)
            write_contact_sheet(folder / _SHEET_FILE, shown)
    return evaluation


def _words_route(options: Evaluate, pipeline: Any, level: str, dataset: Any, access: Any) -> Any:
    """Return the baseline by words; None if no captioner is named, and no demo one fits."""
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.embeddings.space import SpaceMismatchError
    from clip2clap.evaluation.generation.words import WordsBaseline
    from clip2clap.inference.text_to_image import TextToImage

    is_audio, table = level == "audio", getattr(dataset, "embeddings", None)
    family, modality = ("clip", "image") if is_audio else ("clap", "audio")
    names = options.captioner or ["demo" if is_audio else "demo-clap"]
    captioners = [Captioner.from_pretrained(name) for name in names]
    own = [each for each in captioners if each.space is None or each.space.family == family]
    require(own, "captioner", f"the words route needs one that reads a {family.upper()}.")
    space = getattr(pipeline, family).space(modality) if table is None else table.source_space
    route = WordsBaseline(own[0].to(access["device"]))
    if options.captioner is None:
        fits = pipeline.generator_clap.is_local if is_audio else _reads_text(pipeline.clip)
        try:
            route.check_source(space)
        except SpaceMismatchError:
            fits = False
        if not fits:
            note(f"note: no words route, for want of a --captioner of {space}.")
            return None
    if options.text_model is None:
        return route
    model = TextToImage.from_pretrained(options.text_model, torch_dtype=access["dtype"])
    return replace(route, model=model.to(access["device"]))


def _reads_text(encoder: Any) -> bool:
    return encoder is not None and "text" in encoder.modalities


def _measuring_clap(pipeline: Any, options: Evaluate, device: Any) -> Any:
    from clip2clap.embeddings.encoders.clap import ClapEncoder

    name = options.clap or pipeline.config["clap_id"]
    unnamed = f"{options.pipeline} does not name its CLAP. Name one to measure with."
    require(name is not None, "clap", unnamed)
    clap = ClapEncoder.from_pretrained(name, device=device)
    require(
        "audio" in clap.modalities,
        "clap",
        f"{name} is a text-only CLAP. Name one with an audio encoder, such as clap-htsat-unfused.",
    )
    return clap


def _measuring_clip(pipeline: Any, options: Evaluate, device: Any) -> Any:
    from clip2clap.embeddings.encoders.clip import ClipEncoder

    clip = pipeline.clip
    if options.clip is not None:
        clip = ClipEncoder.from_pretrained(options.clip, device=device)
    require(
        clip is not None and "image" in clip.modalities,
        "clip",
        f"{options.clip or options.pipeline} has no CLIP image encoder. Name one to measure with.",
    )
    return clip


def _classifier(options: Evaluate, encoder: Any, labels: list[str], task: Any) -> Any:
    """Return the requested classifier, or a zero-shot one; None without labels."""
    from clip2clap.embeddings.zero_shot import ZeroShotClassifier
    from clip2clap.evaluation.classifiers import TransformersClassifier

    if len(labels) < 2:
        return None
    if options.classifier is not None:
        return TransformersClassifier(options.classifier, labels, task=task)
    return ZeroShotClassifier(encoder, labels) if "text" in encoder.modalities else None
