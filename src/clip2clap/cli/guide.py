"""The verb `guide`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from clip2clap.cli.checks import check_device, check_exists, check_image, require
from clip2clap.cli.development import Outputs
from clip2clap.cli.guiding import Guided, load_audio_guided, load_image_guided
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.audio_files import AudioFormat
from clip2clap.cli.options.generation import Guide
from clip2clap.cli.outputs import Destination, choose_destination
from clip2clap.cli.painter import parse_targets
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.files import replacing

_FOLDER = "clip2clap-guide"
_OF_IMAGES = ("unconditional", "width", "height", "cut_size", "init_image")
_SWITCHES_OF_IMAGES = ("skip_timesteps", "init_scale", "tv_scale", "save_every", "steps_film")


def guide(options: Guide) -> None:
    """Generate images or audio guided by texts, audio and images together, with weights.

    In each denoising step the prediction follows the gradient of its similarity to the targets, by
    CLIP for images and by CLAP for audio (universal guidance). A target with a weight below 0 is
    avoided. Audio is made with --generator, or into a file named .wav, .flac, .ogg, .mp3 or .opus.

    The similarities of each output NAME to the targets, and those without guidance, are written to
    NAME.json, and a caption of it to NAME.txt if a captioner knows its encoder.
    """
    targets = parse_targets(options)
    is_audio = _is_audio(options)
    _check(options, targets, is_audio)
    media = "audio" if is_audio else "image"
    destination = choose_destination(media, options, options.batches, default=_FOLDER, sole=True)
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        load: Callable[..., Guided] = load_audio_guided if is_audio else load_image_guided
        guided = load(options, targets)
    report.lap("load")
    report.settings |= guided.settings
    outputs = Outputs(developments=guided.developments)
    with progress_bar("Generating") as progress:
        task = progress.add_task("", total=options.batches)
        try:
            for seed in range(options.seed, options.seed + options.batches):
                entry = _generate(guided, seed, destination, outputs.files)
                report.results.append(entry)
                report.show(entry["output"])
                progress.advance(task)
        except KeyboardInterrupt:
            report.interrupted = True
    extras = outputs.write_extras(options, destination)
    report.settings |= extras
    report.show(*extras.values())
    report.lap("generate")
    report.end()


def _is_audio(options: Guide) -> bool:
    suffix = options.output.suffix.lower().lstrip(".") if options.output is not None else ""
    return options.generator is not None or suffix in get_args(AudioFormat)


def _check(options: Guide, targets: dict[str, list[tuple[str, float]]], is_audio: bool) -> None:
    weights = [weight for each in targets.values() for _, weight in each]
    require(
        any(weights),
        "target_text",
        "there is no target with a weight other than 0. Give --target-text, --target-audio, "
        "--target-image or --speech.",
    )
    require(
        options.condition == "none"
        or options.unconditional is not None
        or any(weight > 0 for weight in weights),
        "condition",
        "no target has a weight above 0 to condition the decoder on. Give --condition none.",
    )
    require(options.guide_from < options.guide_until, "guide_from", "expected below --guide-until.")
    if is_audio:
        require(not options.speech, "speech", "its encoder is for images, not for audio.")
        for param in (*_OF_IMAGES, *_SWITCHES_OF_IMAGES):
            require(not getattr(options, param), param, "it is for images, not for audio.")
    else:
        require(options.duration_s is None, "duration_s", "it is for audio, not for images.")
    for param in ("save_every", "steps_film"):
        develops = options.guidance_strength > 0 or not getattr(options, param)
        require(develops, param, "frames are those of guided steps. Raise --guidance-strength.")
    for param in ("skip_timesteps", "init_scale"):
        has_image = options.init_image is not None or not getattr(options, param)
        require(has_image, param, "there is no image to start from. Add --init-image.")
    if options.unconditional is not None:
        check_exists(options.unconditional, "unconditional")
        require(options.clip is not None, "clip", "the unconditional model has no CLIP. Name one.")
    check_image(options.init_image, "init_image")
    check_models(options)
    check_device(options.device, None)


def _generate(
    guided: Guided, seed: int, destination: Destination, files: list[Path]
) -> dict[str, Any]:
    """Generate and write one output with what is beside it; return the report's entry."""
    endings = [f".{destination.format}", ".json", ".txt"]
    path, beside, text = destination.reserve("guided", endings)
    made = guided.make(seed, path.with_suffix(""))
    guided.write(path, made.output)
    plain = guided.plain_similarities(seed)
    entry = {
        "output": str(path),
        "seed": seed,
        "similarities": [
            {"target": target.name, "weight": target.weight, "similarity": own, "unguided": other}
            for target, own, other in zip(guided.targets, made.similarities, plain, strict=True)
        ],
    }
    files += [path, beside, *made.frames]
    if guided.captioner is not None:
        entry["caption"] = made.caption
        with replacing(text) as partial:
            partial.write_text(f"{made.caption}\n", encoding="utf-8")
        files.append(text)
    with replacing(beside) as partial:
        partial.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    return entry
