"""The verb `paint`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_image,
    choose_device,
    parse_size,
    require,
)
from clip2clap.cli.command import notice_renamed
from clip2clap.cli.development import Outputs, Recorder
from clip2clap.cli.inputs import find_inputs
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.generation import Paint
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.painter import Painter, load_painter, parse_targets
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing

_FOLDER = "clip2clap-paint"


def paint(options: Paint) -> None:
    """Optimize an image towards audio in CLIP's embedding space.

    The latent of an autoencoder is optimized, without an image decoder, until random cutouts of the
    image are close to the translated embedding of the audio and to the further targets.

    The scores of each image NAME.png are written to NAME.json: its cosine similarity to every
    target, and BRISQUE if the extra is installed.

    Ctrl-C keeps the best image so far; --init-image continues from it.
    """
    further = _parse_targets(options)
    height, width = _parse_size(options)
    check_models(options)
    check_device(options.device, None)
    check_image(options.init_image, "init_image")
    if options.brisque:
        _require_brisque()
    sources = find_inputs(options.inputs, recursive=options.recursive) if options.inputs else [None]
    destination = choose_destination("image", options, len(sources), default=_FOLDER, sole=True)
    report = RunReport(options)
    has_audio = bool(options.inputs or further["audio"])
    with Console(stderr=True).status("Loading the models"):
        device = choose_device(options.device)
        painter = load_painter(options, has_audio=has_audio, device=device)
        common = painter.targets(further, options.break_audio)
    report.lap("load")
    height, width = (side or painter.canvas.default_side for side in (height, width))
    _check_multiple(painter.canvas.multiple, height=height, width=width)
    settings = _settings(options, painter)
    report.settings |= asdict(settings)
    report.settings |= {"width": width, "height": height, "device": str(device)}

    outputs = Outputs()
    heard = next((name for name, weight in further["audio"] if weight > 0), None)
    for seed, source in enumerate(sources, options.seed):
        try:
            targets, latent, generator = _start(painter, options, source, (height, width), seed)
        except UserError as error:
            report.skip(source, error)
            continue
        stem = "painting" if source is None else Path(source).stem
        path, beside = destination.reserve(stem, [f".{destination.format}", ".json"])
        recorder, targets = Recorder(path.with_suffix(""), options), targets + common
        painted, report.interrupted = _paint_one(
            painter, targets, latent, settings, generator, path, recorder
        )
        outputs.add(recorder, path, beside, painted.image, source or heard)
        entry = {"input": source, "seed": seed, "output": str(path), **_scores(painted, targets)}
        with replacing(beside) as partial:
            partial.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
        report.results.append(entry)
        report.show(str(path))
        if report.interrupted:
            break
    extras = outputs.write_extras(options, destination)
    report.settings |= extras
    report.show(*extras.values())
    report.lap("paint")
    report.end()


def _require_brisque() -> None:
    """Import what scores images only where it is used: help does without."""
    from clip2clap.metrics.image_quality import require_brisque

    require_brisque()


def _start(
    painter: Painter, options: Paint, source: str | None, size: tuple[int, int], seed: int
) -> tuple[list[Any], Any, Any]:
    """Return the targets of an input, the latent to start from, and the generator of cutouts."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    audio = [] if source is None else [(source, 1.0)]
    targets = painter.targets({"audio": audio}, options.break_audio)
    if options.init_image is None:
        return targets, painter.canvas.noise(*size, generator), generator
    image = painter.load_image(options.init_image)
    return targets, painter.canvas.encode(image, *size), generator


def _parse_targets(options: Paint) -> dict[str, list[tuple[str, float]]]:
    """Return the targets beside the inputs with their weights, by modality."""
    further = parse_targets(options)
    require(
        options.inputs or any(weight > 0 for each in further.values() for _, weight in each),
        "inputs",
        "there is no target. Give audio, --speech, --target-text, --target-image or "
        "--target-audio.",
    )
    return further


def _parse_size(options: Paint) -> tuple[int | None, int | None]:
    """Return height and width, which `--size` gave together in older versions."""
    if options.size is None:
        return options.height, options.width
    notice_renamed("--size", "--width and --height")
    width, height = parse_size(options.size, "size")
    return options.height or height, options.width or width


def _check_multiple(multiple: int, **sides: int) -> None:
    for param, side in sides.items():
        expected = f"expected a multiple of {multiple} pixels for this autoencoder, got {side}."
        require(side % multiple == 0, param, expected)


def _settings(options: Paint, painter: Painter) -> Any:
    from clip2clap.inference.painting.paint import PaintingOptions, default_cut_size

    names = ("step_size", "cutouts", "augment", "total_variation", "codebook", "brisque")
    return PaintingOptions(
        iterations=options.num_iterations,
        cut_size=options.cut_size or default_cut_size(painter.clip),
        **{name: getattr(options, name) for name in names},
    )


def _paint_one(
    painter: Painter,
    targets: list[Any],
    latent: Any,
    settings: Any,
    generator: Any,
    path: Path,
    recorder: Recorder,
) -> tuple[Any, bool]:
    """Paint and write one image; return the best, and whether Ctrl-C ended it."""
    import torch

    from clip2clap.inference.painting.paint import Painting, paint
    from clip2clap.media.images import to_images, write_image

    started: list[Painting] = []
    interrupted = False
    with progress_bar("{task.description}") as progress:
        task = progress.add_task("Painting", total=settings.iterations)

        def on_step(painting: Painting, loss: float) -> None:
            started[:] = [painting]
            done, description = painting.iteration, f"Painting, loss {loss:.3f}"
            progress.update(task, completed=done, description=description)
            if recorder.wants(done):
                with torch.no_grad():
                    image = to_images(painter.canvas.pixels(painting.latent))[0]
                recorder.add(done, image)
                write_image(path, image)

        try:
            best = paint(
                painter.canvas,
                painter.clip,
                targets,
                latent=latent,
                options=settings,
                generator=generator,
                on_step=on_step,
            )
        except KeyboardInterrupt:
            if not started:
                raise
            interrupted = True
            best = started[0].best
            assert best is not None
    write_image(path, best.image)
    return best, interrupted


def _scores(painted: Any, targets: list[Any]) -> dict[str, Any]:
    """Return an image's similarities to the targets, and its BRISQUE if it can be computed."""
    from clip2clap.core.errors import MissingExtraError
    from clip2clap.metrics.image_quality import brisque

    scores: dict[str, Any] = {
        "iteration": painted.iteration,
        "loss": round(painted.loss, 4),
        "similarities": [
            {"target": target.name, "weight": target.weight, "similarity": round(value, 4)}
            for target, value in zip(targets, painted.similarities, strict=True)
        ],
    }
    try:
        score = brisque(painted.image)
        scores["brisque"] = None if score is None else round(score, 2)
    except MissingExtraError as error:
        scores |= {"brisque": None, "brisque_missing": str(error)}
    return scores
