"""The verb `repeat`."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    check_image,
    choose_device,
    require,
)
from clip2clap.cli.loading import load_pipeline
from clip2clap.cli.options.generation import Repeat
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.progress import RunReport


def repeat(options: Repeat) -> None:
    """Generate an audio file once more, from the tags in it.

    The samples are the same to the last bit on the machine that made the file, with the same
    versions of the libraries; elsewhere they differ by less than is heard. The image and the models
    have to be the same as then. Computes on the device of then, unless --device is given.
    """
    check_exists(options.sound, "sound")
    check_image(options.image, "image")
    from clip2clap.inference.batch.tags import check_tags, load_input
    from clip2clap.media.audio import load_audio, read_tags
    from clip2clap.media.writing import AudioFileOptions, write_audio

    tags = read_tags(options.sound)
    check_tags(tags, str(options.sound))
    file_options = AudioFileOptions(**tags["settings"]["file"])
    check_device(options.device if options.device != "auto" else tags["run"]["device"], None)
    value = load_input(
        tags, options.image, sound=options.sound, allow_private=options.allow_private
    )
    format = tags["settings"]["file"]["format"]
    place = SimpleNamespace(output=options.output, overwrite=options.overwrite, audio_format=format)
    destination = choose_destination("audio", place, 1, default="clip2clap-repeat")
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.inference.batch.repeat import check_models, repeat_audio

        pipeline = _load(tags, options.device)
        check_models(pipeline, tags)
    report.lap("load")
    with Console(stderr=True).status("Generating"):
        waveform = repeat_audio(pipeline, tags, value)
    report.lap("generate")
    (path,) = destination.reserve(options.sound.stem, [f".{format}"])
    write_audio(path, waveform, pipeline.sampling_rate, file_options, tags=tags)
    then, now = load_audio(options.sound)[0], load_audio(path)[0]
    difference = float(abs(now - then).max()) if len(now) == len(then) else None
    report.lap("write")
    report.show(str(path), f"Its samples {_compare(difference)} those of {options.sound}.")
    report.end([{"input": str(options.sound), "output": str(path), "difference": difference}])


def _load(tags: Mapping[str, Any], device: str) -> Any:
    """Load the models that tags name, on the device and threads of then."""
    import torch

    from clip2clap.inference.batch.repeat import restore_scheduler

    run = tags["run"]
    names = dict(run["names"])
    require(
        names.get("generator") and None not in names.values(),
        "sound",
        "it was made with models that were not loaded by name, and cannot be loaded again.",
    )
    torch.set_num_threads(run["threads"])
    pipeline = load_pipeline(
        "generator",
        names.pop("generator"),
        device=choose_device(run["device"] if device == "auto" else device),
        dtype={part: getattr(torch, name) for part, name in run["dtypes"].items()},
        low_memory=run["low_memory"],
        **names,
    )
    restore_scheduler(pipeline, tags)
    return pipeline


def _compare(difference: float | None) -> str:
    if difference is None:
        return "are not as many as"
    return f"differ by up to {difference:.1g} from" if difference else "equal"
