"""The verb `image-to-audio`."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from clip2clap.cli.checks import check_device, choose_device, choose_dtype, require
from clip2clap.cli.generate import Generated, generate
from clip2clap.cli.inputs import Input, find_image_inputs, image_stem, read_inputs, text_stem
from clip2clap.cli.loading import check_models, load_generator
from clip2clap.cli.options.common import Duration
from clip2clap.cli.options.generation import (
    AudioFiles,
    GeneratorOptions,
    ImageInputs,
    Running,
    SamplingOptions,
)
from clip2clap.cli.outputs import Destination, audio_destination
from clip2clap.cli.progress import RunReport, progress_bar, stage_seconds
from clip2clap.core.concurrency import read_ahead

if TYPE_CHECKING:
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline


def image_to_audio(
    images: ImageInputs,
    models: GeneratorOptions,
    sampling: SamplingOptions,
    length: Duration,
    files: AudioFiles,
    running: Running,
) -> None:
    """Generate audio from images, or from text prompts.

    Each audio file has the name of its image and is written as soon as its batch is done.

    The initial noise of the input at position i, from 0, depends on the seed plus i alone.

    An image that cannot be read is skipped; the exit code is then 1.
    """
    _check(images, models, sampling)
    check_device(running.device, running.dtype)
    sources = sampling.prompt or find_image_inputs(images.inputs or [])
    destination = audio_destination(files, len(sources))
    console = Console(stderr=True)
    start = time.perf_counter()
    with console.status("Loading the models"):
        device = choose_device(running.device)
        pipeline = load_generator(
            models.generator or "demo",
            clip=models.clip,
            translator=models.translator,
            ranker=models.ranker,
            ranker_translator=models.ranker_translator,
            num_candidates=sampling.num_candidates or 1,
            scheduler=sampling.scheduler,
            device=device,
            dtype=choose_dtype(running.dtype, device),
        )
    loaded = time.perf_counter()
    calls = _calls(pipeline, sampling, length, running.batch_size or 4)
    _require_candidates(models, calls["num_candidates"])
    settings = _settings(pipeline, models, sampling) | {"device": str(device)} | calls
    report = RunReport(settings, {"sounds": []})
    with progress_bar(console, "Generating audio") as progress:
        task = progress.add_task("", total=len(sources))
        try:
            for each, generated in generate(
                pipeline,
                read_ahead(_batches(sources, bool(sampling.prompt), calls)),
                calls,
                argument="prompt" if sampling.prompt else "images",
                num_candidates=calls["num_candidates"],
                seed=sampling.seed,
                advance=lambda share: progress.advance(task, share),
            ):
                _write(each, generated, destination, files, report, as_json=running.as_json)
        except KeyboardInterrupt:
            report.interrupted = True
    report.seconds = stage_seconds(start, loaded)
    made = len(report.results["sounds"])
    written = f"{made} audio file{'' if made == 1 else 's'} in {destination.folder}"
    report.end(as_json=running.as_json, summary=report.summary(written, made, len(sources)))


def _check(images: ImageInputs, models: GeneratorOptions, sampling: SamplingOptions) -> None:
    require(
        bool(images.inputs) != bool(sampling.prompt),
        "inputs",
        "give images, or --prompt, and not both.",
    )
    if sampling.num_candidates is not None:
        _require_candidates(models, sampling.num_candidates)
    require(
        models.ranker_translator is None or models.ranker is not None,
        "ranker_translator",
        "it maps into the space of a ranker. Add --ranker.",
    )
    check_models(models)


def _require_candidates(models: GeneratorOptions, num_candidates: int) -> None:
    require(
        models.ranker is None or num_candidates > 1,
        "ranker",
        "there is nothing to rank with one candidate. Add --num-candidates 4.",
    )


def _batches(sources: list[str], are_prompts: bool, calls: dict[str, Any]) -> Any:
    """Return an iterator over batches of as many inputs as a batch has candidates for."""
    size = max(1, calls["batch_size"] // calls["num_candidates"])
    if are_prompts:
        return read_inputs(sources, str, batch_size=size, stem=text_stem)
    from clip2clap.media.images import load_image

    return read_inputs(sources, load_image, batch_size=size, stem=image_stem)


def _calls(
    pipeline: "ImageToAudioPipeline",
    sampling: SamplingOptions,
    length: Duration,
    batch_size: int,
) -> dict[str, Any]:
    """Return the arguments of the pipeline's call, with its defaults filled in."""
    config, scale = pipeline.config, sampling.guidance_scale
    return {
        "audio_length_in_s": (
            pipeline.default_audio_length_in_s if length.duration_s is None else length.duration_s
        ),
        "num_inference_steps": sampling.num_inference_steps
        or config["default_num_inference_steps"],
        "guidance_scale": config["default_guidance_scale"] if scale is None else scale,
        "guidance_interval": config["default_guidance_interval"],
        "negative_prompt": sampling.negative_prompt,
        "num_candidates": sampling.num_candidates or int(config["default_num_candidates"]),
        "batch_size": batch_size,
    }


def _settings(
    pipeline: "ImageToAudioPipeline", models: GeneratorOptions, sampling: SamplingOptions
) -> dict[str, Any]:
    named = asdict(models)
    return {
        "model": named.pop("generator") or "demo",
        **named,
        "scheduler": type(pipeline.scheduler).__name__,
        "seed": sampling.seed,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
    }


def _write(
    each: Input,
    generated: Generated | None,
    destination: Destination,
    files: AudioFiles,
    report: RunReport,
    *,
    as_json: bool,
) -> None:
    """Write the audio of one input, and add it to the report."""
    if generated is None:
        report.skip(each.source, each.reason)
        return
    result, place = generated.result, generated.place
    waveform = result.audios[place]
    written = destination.write_audio(
        each.stem, waveform, result.sampling_rate, spectrogram=files.spectrogram
    )
    entry = {
        "input": each.source,
        **written,
        "seed": generated.seed,
        "seconds": len(waveform) / result.sampling_rate,
        "sampling_rate": result.sampling_rate,
    }
    if result.similarities is not None:
        entry["similarity"] = round(float(result.similarities[place].max()), 4)
    report.results["sounds"].append(entry)
    if not as_json:
        typer.echo(written["output"])
