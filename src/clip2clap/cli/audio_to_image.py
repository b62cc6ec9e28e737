"""The verb `audio-to-image`."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    check_image,
    choose_device,
    choose_dtype,
    parse_weighted,
    require,
)
from clip2clap.cli.describing import check_describe, load_words_route
from clip2clap.cli.film import check_film, make_films, plan_films
from clip2clap.cli.generate import call_arguments, generate, pipeline_settings
from clip2clap.cli.inputs import (
    Input,
    find_inputs,
    load_audible,
    load_named_image,
    read_inputs,
)
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.generation import AudioToImage
from clip2clap.cli.outputs import Destination, choose_destination
from clip2clap.cli.progress import RunReport, note
from clip2clap.cli.spoken import SpokenCondition, load_speech_encoder, parse_speech
from clip2clap.search.labels import read_labels

_LABELS_SHOWN = 3
_FOLDER = "clip2clap-audio-to-image"


def audio_to_image(options: AudioToImage) -> None:
    """Generate images from audio, or from speech.

    Each image has the name of its audio file and is written as soon as its batch is done. The
    labels nearest to the audio are printed on stderr.

    The initial noise of the input at position i, from 0, depends on the seed plus i alone.

    With --describe a caption and keywords of the audio become a prompt, for the decoder beside the
    audio, or for a --text-model. The images' metadata have the prompt.

    Audio that cannot be read, or is silent, is skipped; the exit code is then 1.
    """
    mix = parse_weighted(options.mix, "mix")
    spoken = parse_speech(options)
    _check(options)
    for file, _ in mix:
        check_exists(file, "mix")
    mix += spoken if mix else []
    files = find_inputs(options.inputs or [], recursive=options.recursive)
    sources = [file for file, _ in mix or spoken] or files
    count = 1 if mix else len(sources)
    plan = plan_films(options, sources, _FOLDER) if options.film else []
    destination = None
    if not options.film:
        destination = choose_destination("image", options, count, default=_FOLDER)
    report, image = RunReport(options), _init_image(options)
    with Console(stderr=True).status("Loading the models"):
        pipeline, speech = _load(options)
        route = load_words_route(options, pipeline) if options.describe else pipeline
    report.lap("load")
    calls = _call_arguments(pipeline, options)
    report.settings |= calls | pipeline_settings(pipeline)
    calls["image"] = image
    if destination is None:
        make_films(pipeline, plan, options, report, calls, speech=speech)
        return
    labels = read_labels(options.label_file or "demo")
    writer = _Writer(pipeline, destination, options, report, labels)
    writer.stem = "-".join(Path(source).stem for source in sources) if mix else None
    batches = read_inputs(
        sources,
        partial(load_audible, start=options.start_s, duration=options.duration_s),
        batch_size=len(sources) if mix else max(1, calls["batch_size"] // calls["num_candidates"]),
    )
    weights = [weight for _, weight in mix] or None
    generate(
        route,
        batches,
        calls,
        writer.write,
        report,
        total=count,
        weights=weights,
        condition=speech and SpokenCondition(pipeline, speech, [file for file, _ in spoken]),
    )
    report.lap("generate")
    made = sum(len(entry["images"]) for entry in report.results)
    report.summarize(f"{made} image{'' if made == 1 else 's'} in {destination.folder}", count)
    report.end()


def _check(options: AudioToImage) -> None:
    require(
        bool(options.inputs) + bool(options.mix or options.speech) == 1,
        "inputs",
        "give audio, or --speech, or --mix FILE:WEIGHT several times, perhaps with --speech.",
    )
    candidates = options.num_candidates
    require(
        candidates is None or candidates >= options.num_images,
        "num_candidates",
        f"expected at least --num-images, {options.num_images}, got {candidates}.",
    )
    prompts = options.prompt or []
    require(len(prompts) <= 1, "prompt", f"expected one prompt, got {len(prompts)}.")
    weightless = options.prompt_weight is None or bool(prompts)
    require(weightless, "prompt_weight", "it is the weight of a prompt. Add --prompt.")
    if options.label_file is not None:
        check_exists(options.label_file, "label_file")
    check_describe(options)
    _check_words(options)
    check_device(options.device, options.dtype)
    _require_offload(options, options.device)
    check_models(options)
    check_image(options.init_image, "init_image")
    if options.film:
        check_film(options)


def _check_words(options: AudioToImage) -> None:
    if options.describe:
        plain = not (options.mix or options.speech)
        require(plain, "describe", "mixtures and speech have no description. Use INPUT.")
        require(not options.film, "describe", "a film follows the audio, not a description.")
    if options.text_model is None:
        require(options.route == "words", "route", "the routes are mixed by a --text-model.")
        return
    require(not options.low_memory, "low_memory", "it is not for --text-model.")
    require(
        options.route == "words" or options.init_image is None,
        "init_image",
        "with --route mixed the image to start from is the decoder's. Use --route words.",
    )


def _require_offload(options: AudioToImage, device: str) -> None:
    require(
        options.offload == "none" or device != "cpu",
        "offload",
        "there is nothing to offload: the models run on the CPU.",
    )


def _load(options: AudioToImage) -> tuple[Any, Any]:
    """Return the pipeline, and the speech encoder if there is speech."""
    device = choose_device("cpu" if options.low_memory else options.device)
    _require_offload(options, device.type)
    parts = ("clap", "translator", "clip", "ip_adapter")
    pipeline = load_pipeline(
        "decoder",
        options.decoder,
        device=device,
        dtype=choose_dtype(options.dtype, device),
        scheduler=options.scheduler,
        offload=options.offload,
        low_memory=options.low_memory,
        **{part: getattr(options, part) for part in parts},
    )
    if not options.speech:
        return pipeline, None
    return pipeline, load_speech_encoder(options, device, pipeline.generator_space)


def _init_image(options: AudioToImage) -> Any:
    source = options.init_image
    return source and load_named_image(source, allow_private=options.allow_private)


def _call_arguments(pipeline: Any, options: AudioToImage) -> dict[str, Any]:
    prompt = {} if options.describe else {"prompt": options.prompt[0] if options.prompt else None}
    scale = options.clip_guidance_scale
    guidance = {} if scale is None else {"clip_guidance_scale": scale}
    side = pipeline.decoder.trained_size if options.film else pipeline.decoder.size
    return call_arguments(pipeline, options) | {
        **prompt,
        **guidance,
        "prompt_weight": options.prompt_weight,
        "image": options.init_image,
        "strength": options.strength,
        "refine_strength": options.refine_strength,
        "height": options.height or side,
        "width": options.width or side,
        "num_candidates": options.num_candidates or options.num_images,
    }


@dataclass
class _Writer:
    """Writer of the images of each input, best first, that prints the nearest labels."""

    pipeline: Any
    destination: Destination
    options: AudioToImage
    report: RunReport
    labels: list[str]
    stem: str | None = None

    def write(self, each: Input, result: Any, place: int) -> dict[str, Any]:
        """Write the best images of one input, and return the report's entry."""
        from clip2clap.media.images import image_grid, write_image

        count = len(result.images) // len(result.image_embeds)
        images = list(result.images[place * count : (place + 1) * count])
        similarities = None
        if result.similarities is not None:
            unsorted = result.similarities[place].tolist()
            order = sorted(range(count), key=lambda at: -unsorted[at])
            images = [images[at] for at in order]
            similarities = [unsorted[at] for at in order]
        images = images[: self.options.num_images]
        numbers = [f"-{number}" for number in range(1, len(images) + 1)]
        endings = numbers if len(images) > 1 else [""]
        if self.options.grid:
            endings, images = [*endings, "-grid"], [*images, image_grid(images)]
        stem, format = self.stem or each.stem, self.destination.format
        paths = self.destination.reserve(stem, [f"{ending}.{format}" for ending in endings])
        prompt = None if result.prompts is None else result.prompts[place]
        for path, image in zip(paths, images, strict=True):
            write_image(path, image, description=prompt)
        outputs: list[dict[str, Any]] = [{"output": str(path)} for path in paths]
        entry: dict[str, Any] = {"grid": outputs.pop()["output"]} if self.options.grid else {}
        for output, value in zip(outputs, similarities or (), strict=False):
            output["similarity"] = round(value, 4)
        nearest = self._nearest(result.image_embeds[place : place + 1])
        if nearest:
            shown = ", ".join(f"{label} {value:.2f}" for label, value in nearest)
            note(f"{stem}: {shown}")
        if prompt is not None:
            entry["prompt"] = prompt
            note(f"{stem}: {prompt}")
        self.report.show(*map(str, paths))
        waveform, sampling_rate = each.value
        labels = [{"label": label, "similarity": round(value, 4)} for label, value in nearest]
        seconds = round(len(waveform) / sampling_rate, 3)
        return {"images": outputs, **entry, "seconds": seconds, "nearest": labels}

    def _nearest(self, image_embeds: Any) -> list[tuple[str, float]]:
        clip = self.pipeline.clip
        if not self.labels or clip is None or "text" not in clip.modalities:
            return []
        return self.pipeline.nearest_labels(image_embeds, self.labels)[0][:_LABELS_SHOWN]
