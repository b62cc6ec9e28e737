"""The verb `image-to-audio`."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from clip2clap.cli.checks import check_device, choose_device, choose_dtype, require
from clip2clap.cli.generate import call_arguments, generate, pipeline_settings
from clip2clap.cli.inputs import (
    Input,
    find_inputs,
    image_stem,
    load_named_image,
    read_inputs,
    text_stem,
)
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.audio_files import audio_file_options
from clip2clap.cli.options.generation import ImageToAudio
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.progress import RunReport

if TYPE_CHECKING:
    from clip2clap.media.writing import AudioFileOptions


def image_to_audio(options: ImageToAudio) -> None:
    """Generate audio from images, or from text prompts.

    Each audio file has the name of its image and is written as soon as its batch is done.

    The initial noise of the input at position i, from 0, depends on the seed plus i alone.

    An image that cannot be read is skipped; the exit code is then 1.
    """
    file_options = _check(options)
    sources = options.prompt or find_inputs("image", options.inputs or [])
    destination = choose_destination(
        "audio", options, len(sources), default="clip2clap-image-to-audio"
    )
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        pipeline = _load(options)
    report.lap("load")
    calls = _call_arguments(pipeline, options)
    _require_candidates(options, calls["num_candidates"])
    report.settings |= {"generator": options.generator or "demo", **calls}
    report.settings |= pipeline_settings(pipeline)

    def write(each: Input, result: Any, place: int) -> dict[str, Any]:
        from clip2clap.media.spectrogram import write_spectrogram
        from clip2clap.media.writing import write_audio

        suffixes = ["-spectrogram.png"] if options.spectrogram else []
        path, *drawn = destination.reserve(each.stem, [f".{destination.format}", *suffixes])
        waveform, sampling_rate = result.audios[place], result.sampling_rate
        written = write_audio(path, waveform, sampling_rate, file_options)
        entry: dict[str, Any] = {"output": str(path)}
        for spectrogram in drawn:
            write_spectrogram(spectrogram, waveform, sampling_rate, title=path.stem)
            entry["spectrogram"] = str(spectrogram)
        report.show(str(path))
        entry |= {key: value for key, value in asdict(written).items() if key != "path"}
        if result.similarities is not None:
            entry["similarity"] = round(float(result.similarities[place].max()), 4)
        return entry

    argument = "prompt" if options.prompt else "images"
    batches = _read(sources, options, calls)
    generate(pipeline, batches, calls, write, report, argument=argument, total=len(sources))
    report.lap("generate")
    count = len(report.results)
    files = f"{count} audio file{'' if count == 1 else 's'} in {destination.folder}"
    report.summarize(files, len(sources))
    report.end()


def _check(options: ImageToAudio) -> "AudioFileOptions":
    """Check the options, and return those of the files."""
    require(
        bool(options.inputs) != bool(options.prompt),
        "inputs",
        "give images, or --prompt, and not both.",
    )
    if options.num_candidates is not None:
        _require_candidates(options, options.num_candidates)
    require(
        options.ranker_translator is None or options.ranker is not None,
        "ranker_translator",
        "it maps into the space of a ranker. Add --ranker.",
    )
    check_models(options)
    check_device(options.device, options.dtype)
    return audio_file_options(options)


def _require_candidates(options: ImageToAudio, num_candidates: int) -> None:
    require(
        options.ranker is None or num_candidates > 1,
        "ranker",
        "there is nothing to rank with one candidate. Add --num-candidates 4.",
    )


def _load(options: ImageToAudio) -> Any:
    device = choose_device("cpu" if options.low_memory else options.device)
    parts = ("clip", "translator", "ranker", "ranker_translator")
    return load_pipeline(
        "generator",
        options.generator or "demo",
        device=device,
        dtype=choose_dtype(options.dtype, device),
        scheduler=options.scheduler,
        num_candidates=options.num_candidates or 1,
        low_memory=options.low_memory,
        **{part: getattr(options, part) for part in parts},
    )


def _read(sources: list[str], options: ImageToAudio, calls: dict[str, Any]) -> Any:
    """Return an iterator over batches of as many inputs as a batch has candidates for."""
    size = max(1, calls["batch_size"] // calls["num_candidates"])
    if options.prompt:
        return read_inputs(sources, str, batch_size=size, stem=text_stem)
    load = partial(load_named_image, allow_private=options.allow_private)
    return read_inputs(sources, load, batch_size=size, stem=image_stem)


def _call_arguments(pipeline: Any, options: ImageToAudio) -> dict[str, Any]:
    length, config = options.duration_s, pipeline.config
    return call_arguments(pipeline, options) | {
        "audio_length_in_s": pipeline.default_audio_length_in_s if length is None else length,
        "guidance_interval": config["default_guidance_interval"],
        "num_candidates": options.num_candidates or int(config["default_num_candidates"]),
    }
