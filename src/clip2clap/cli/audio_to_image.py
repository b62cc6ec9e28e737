"""The verb `audio-to-image`."""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
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
from clip2clap.cli.film import check_film, film_settings, make_films, plan_films
from clip2clap.cli.generate import Generated, generate
from clip2clap.cli.inputs import Input, find_audio_inputs, load_audible, read_inputs
from clip2clap.cli.loading import check_models, load_decoder
from clip2clap.cli.options.generation import (
    AudioInputs,
    DecoderOptions,
    FilmOptions,
    ImageFiles,
    ImageOptions,
    InitImage,
    Running,
    SamplingOptions,
    Size,
)
from clip2clap.cli.outputs import image_destination
from clip2clap.cli.progress import RunReport, progress_bar, stage_seconds
from clip2clap.core.concurrency import read_ahead

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline

_LABELS_SHOWN = 3


def audio_to_image(
    audio: AudioInputs,
    models: DecoderOptions,
    options: ImageOptions,
    sampling: SamplingOptions,
    size: Size,
    init: InitImage,
    film: FilmOptions,
    files: ImageFiles,
    running: Running,
) -> None:
    """Generate images from audio.

    Each image has the name of its audio file and is written as soon as its batch is done. The
    labels nearest to the audio are printed on stderr.

    The initial noise of the input at position i, from 0, depends on the seed plus i alone.

    Audio that cannot be read, or is silent, is skipped; the exit code is then 1.
    """
    mix = parse_weighted(options.mix, "mix")
    _check(audio, models, options, sampling, running)
    check_image(init.init_image, "init_image")
    sources = [file for file, _ in mix] or find_audio_inputs(audio.inputs or [])
    if film.film:
        check_film(film, options, sampling)
    output = (
        plan_films(files, sources)
        if film.film
        else image_destination(files, 1 if mix else len(sources))
    )
    console = Console(stderr=True)
    start = time.perf_counter()
    with console.status("Loading the models"):
        pipeline, device = _load(models, sampling, running)
    loaded = time.perf_counter()
    calls = _calls(pipeline, options, sampling, size, init, running.batch_size or 4)
    settings = _settings(pipeline, models, options, mix)
    settings |= {"seed": sampling.seed, "device": str(device), **calls}
    report = RunReport(settings, {"pictures": [], "films": []})
    if isinstance(output, list):
        report.settings |= film_settings(film, options)
        make_films(pipeline, output, film, options, report, calls, console, as_json=running.as_json)
        return
    weights = [weight for _, weight in mix] or None
    writer = _Writer(pipeline, output, files, options, report, running.as_json)
    writer.generate(sources, weights, calls, sampling.seed, console)
    report.seconds = stage_seconds(start, loaded)
    entries = report.results["pictures"]
    made = sum(len(entry["pictures"]) for entry in entries)
    written = f"{made} image{'' if made == 1 else 's'} in {output.folder}"
    summary = report.summary(written, len(entries), 1 if mix else len(sources))
    report.end(as_json=running.as_json, summary=summary)


def _check(
    audio: AudioInputs,
    models: DecoderOptions,
    options: ImageOptions,
    sampling: SamplingOptions,
    running: Running,
) -> None:
    require(
        bool(audio.inputs) != bool(options.mix),
        "inputs",
        "give audio, or --mix FILE:WEIGHT several times, and not both.",
    )
    candidates = sampling.num_candidates
    require(
        candidates is None or candidates >= options.num_images,
        "num_candidates",
        f"expected at least --num-images, {options.num_images}, got {candidates}.",
    )
    prompts = sampling.prompt or []
    require(len(prompts) <= 1, "prompt", f"expected one prompt, got {len(prompts)}.")
    require(
        options.prompt_weight is None or bool(prompts),
        "prompt_weight",
        "it is the weight of a prompt. Add --prompt.",
    )
    if options.label_file is not None:
        check_exists(options.label_file, "label_file")
    check_device(running.device, running.dtype)
    _require_offload(models, running.device)
    check_models(models)


def _require_offload(models: DecoderOptions, device: str) -> None:
    require(
        models.offload == "none" or device != "cpu",
        "offload",
        "there is nothing to offload: the models run on the CPU.",
    )


def _load(
    models: DecoderOptions, sampling: SamplingOptions, running: Running
) -> "tuple[AudioToImagePipeline, Any]":
    device = choose_device(running.device)
    _require_offload(models, device.type)
    named = asdict(models)
    pipeline = load_decoder(
        named.pop("decoder"),
        **named,
        device=device,
        dtype=choose_dtype(running.dtype, device),
        scheduler=sampling.scheduler,
    )
    return pipeline, device


def _calls(
    pipeline: "AudioToImagePipeline",
    options: ImageOptions,
    sampling: SamplingOptions,
    size: Size,
    init: InitImage,
    batch_size: int,
) -> dict[str, Any]:
    """Return the arguments of the pipeline's call, with its defaults filled in."""
    config, scale = pipeline.config, sampling.guidance_scale
    return {
        "prompt": sampling.prompt[0] if sampling.prompt else None,
        "prompt_weight": options.prompt_weight,
        "negative_prompt": sampling.negative_prompt,
        "image": init.init_image,
        "strength": options.strength,
        "height": size.height or pipeline.decoder.size,
        "width": size.width or pipeline.decoder.size,
        "num_inference_steps": sampling.num_inference_steps
        or config["default_num_inference_steps"],
        "guidance_scale": config["default_guidance_scale"] if scale is None else scale,
        "num_candidates": sampling.num_candidates or options.num_images,
        "batch_size": batch_size,
    }


def _settings(
    pipeline: "AudioToImagePipeline",
    models: DecoderOptions,
    options: ImageOptions,
    mix: list[tuple[str, float]],
) -> dict[str, Any]:
    return {
        "model": models.decoder,
        "translator": models.translator,
        "clap": models.clap,
        "clip": models.clip,
        "ip_adapter": models.ip_adapter,
        "scheduler": type(pipeline.scheduler).__name__,
        "mix": [{"input": file, "weight": weight} for file, weight in mix] or None,
        "start": options.start_s,
        "seconds": options.duration_s,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
    }


@dataclass
class _Writer:
    """Generation of images, each written as soon as its batch is done."""

    pipeline: "AudioToImagePipeline"
    destination: Any
    files: ImageFiles
    options: ImageOptions
    report: RunReport
    as_json: bool

    def generate(
        self,
        sources: list[str],
        weights: list[float] | None,
        calls: dict[str, Any],
        seed: int,
        console: Console,
    ) -> None:
        """Generate images from audio files, or from their mix if there are weights."""
        candidates = calls["num_candidates"]
        labels = read_labels(self.options.label_file)
        stem = "-".join(Path(source).stem for source in sources) if weights else None
        batches = read_inputs(
            sources,
            partial(load_audible, start=self.options.start_s, duration=self.options.duration_s),
            batch_size=len(sources) if weights else max(1, calls["batch_size"] // candidates),
        )
        with progress_bar(console, "Generating images") as progress:
            task = progress.add_task("", total=1 if weights else len(sources))
            try:
                for each, generated in generate(
                    self.pipeline,
                    read_ahead(batches),
                    calls,
                    argument="audios",
                    num_candidates=candidates,
                    seed=seed,
                    advance=lambda share: progress.advance(task, share),
                    weights=weights,
                ):
                    if generated is None:
                        self.report.skip(each.source, each.reason)
                    else:
                        self._write(each, generated, stem or each.stem, candidates, labels)
            except KeyboardInterrupt:
                self.report.interrupted = True

    def _write(
        self, each: Input, generated: Generated, stem: str, candidates: int, labels: list[str]
    ) -> None:
        """Write the best images of one input, and add them to the report."""
        result, place = generated.result, generated.place
        images = list(result.images[place * candidates : (place + 1) * candidates])
        values: list[float] = []
        if result.similarities is not None:
            values = result.similarities[place].tolist()
            ranked = sorted(zip(values, images, strict=True), key=lambda pair: -pair[0])
            values, images = [value for value, _ in ranked], [image for _, image in ranked]
        paths, grid = self.destination.write_images(
            stem, images[: self.options.num_images], grid=self.files.grid
        )
        nearest = self._nearest(result.image_embeds[place : place + 1], labels)
        waveform, sampling_rate = each.value
        outputs: list[dict[str, Any]] = [{"output": str(path)} for path in paths]
        for output, value in zip(outputs, values, strict=False):
            output["similarity"] = round(value, 4)
        entry = {
            "input": each.source,
            "pictures": outputs,
            **({"grid": str(grid)} if grid else {}),
            "seed": generated.seed,
            "seconds": round(len(waveform) / sampling_rate, 3),
            "nearest": [{"name": name, "similarity": round(value, 4)} for name, value in nearest],
        }
        self.report.results["pictures"].append(entry)
        if nearest:
            shown = ", ".join(f"{name} {value:.2f}" for name, value in nearest)
            typer.echo(f"{stem}: {shown}", err=True)
        if not self.as_json:
            for path in [*paths, *([grid] if grid else [])]:
                typer.echo(str(path))

    def _nearest(self, image_embeds: Any, labels: list[str]) -> list[tuple[str, float]]:
        clip = self.pipeline.clip
        if not labels or clip is None or "text" not in clip.modalities:
            return []
        return self.pipeline.nearest_labels(image_embeds, labels)[0][:_LABELS_SHOWN]


def read_labels(file: Path | None) -> list[str]:
    """Return the labels in a text file, one a line; by default the demo models' classes."""
    if file is None:
        from clip2clap.core.presets import DEMO_FOLDER

        return json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    lines = file.expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
    labels = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    require(labels, "label_file", f"{file} has no labels. Write one per line.")
    return labels
