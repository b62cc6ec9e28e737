"""The verb `paint`."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_image,
    choose_device,
    parse_size,
    parse_weighted,
    require,
)
from clip2clap.cli.command import notice_renamed
from clip2clap.cli.inputs import find_audio_inputs
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.common import Device, Json, Output, Overwrite, Seed
from clip2clap.cli.options.generation import (
    AudioInputs,
    InitImage,
    PainterOptions,
    PaintingOptions,
    Size,
)
from clip2clap.cli.outputs import Destination, choose_destination
from clip2clap.cli.painter import Painter, load_painter
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from clip2clap.inference.painting.paint import Painted, Target
    from clip2clap.inference.painting.paint import PaintingOptions as PaintingSettings


@dataclass(frozen=True, kw_only=True)
class PaintRun(Output, Overwrite, Seed, Device, Json):
    """Output and device of `paint`."""


def paint(
    audio: AudioInputs,
    painting: PaintingOptions,
    size: Size,
    models: PainterOptions,
    run: PaintRun,
    init: InitImage,
) -> None:
    """Optimize an image towards audio in CLIP's embedding space.

    The latent of an autoencoder is optimized, without an image decoder, until random cutouts of the
    image are close to the translated embedding of the audio and to the further targets.

    The scores of each image NAME.png are written to NAME.json: its cosine similarity to every
    target, and BRISQUE if the extra is installed.

    Ctrl-C keeps the best image so far; --init-image continues from it.
    """
    further = _parse_targets(audio, painting)
    height, width = _parse_size(painting, size)
    check_models(models)
    check_device(run.device, None)
    check_image(init.init_image, "init_image")
    sources: list[str | None] = [*find_audio_inputs(audio.inputs)] if audio.inputs else [None]
    output = run.output or Path("clip2clap-paint")
    destination = choose_destination("image", output, len(sources), run.overwrite)
    console = Console(stderr=True)
    start = time.perf_counter()
    with console.status("Loading the models"):
        device = choose_device(run.device)
        has_audio = bool(audio.inputs or further.audio)
        painter = load_painter(models, has_audio=has_audio, device=device)
        common = further.targets(painter, painting.break_audio)
    loaded = time.perf_counter()
    width, height = width or painter.default_size[0], height or painter.default_size[1]
    _check_size(painter, width, height)
    settings = _settings(painting, painter)
    names = ("autoencoder", "clip", "clap", "translator")
    report = RunReport(
        {
            "model": models.decoder,
            **{name: getattr(models, name) for name in names},
            "init": init.init_image,
            "width": width,
            "height": height,
            "seed": run.seed,
            "break_audio": painting.break_audio,
            "device": str(device),
            **asdict(settings),
        },
        {"pictures": []},
    )
    job = _Job(painter, common, settings, painting, run, destination, report, console)
    job.paint_all(sources, init.init_image, height, width)
    report.seconds = {
        "load": round(loaded - start, 3),
        "paint": round(time.perf_counter() - loaded, 3),
    }
    report.end(as_json=run.as_json)


@dataclass(frozen=True)
class _FurtherTargets:
    """Targets beside the inputs, with their weights."""

    text: list[tuple[str, float]]
    audio: list[tuple[str, float]]
    image: list[tuple[str, float]]

    def targets(self, painter: Painter, parts: int) -> "list[Target]":
        """Return the targets; audio is split into so many parts."""
        found = [painter.text_target(*each) for each in self.text]
        found += [painter.image_target(*each) for each in self.image]
        for each in self.audio:
            found += painter.audio_targets(*each, parts)
        return found


def _parse_targets(audio: AudioInputs, painting: PaintingOptions) -> _FurtherTargets:
    further = _FurtherTargets(
        parse_weighted(painting.target_text, "target_text", "TEXT:WEIGHT such as 'a red dog:0.5'"),
        parse_weighted(painting.target_audio, "target_audio"),
        parse_weighted(painting.target_image, "target_image", "FILE:WEIGHT such as dog.jpg:0.5"),
    )
    weights = [weight for _, weight in further.text + further.audio + further.image]
    require(
        bool(audio.inputs) or any(weight > 0 for weight in weights),
        "inputs",
        "there is no target. Give audio, or --target-text, --target-image or --target-audio.",
    )
    return further


def _parse_size(painting: PaintingOptions, size: Size) -> tuple[int | None, int | None]:
    """Return height and width, which `--size` gave together in older versions."""
    if painting.size is None:
        return size.height, size.width
    notice_renamed("--size", "--width and --height")
    width, height = parse_size(painting.size, "size")
    return size.height or height, size.width or width


def _check_size(painter: Painter, width: int, height: int) -> None:
    multiple = painter.canvas.multiple
    for name, side in (("width", width), ("height", height)):
        require(
            side % multiple == 0,
            name,
            f"expected a multiple of {multiple} pixels for this autoencoder, got {side}.",
        )


def _settings(painting: PaintingOptions, painter: Painter) -> "PaintingSettings":
    from clip2clap.inference.painting.paint import PaintingOptions as PaintingSettings
    from clip2clap.inference.painting.paint import default_cut_size

    return PaintingSettings(
        iterations=painting.num_iterations,
        step_size=painting.step_size,
        cutouts=painting.cutouts,
        cut_size=painting.cut_size or default_cut_size(painter.clip),
        augment=painting.augment,
        total_variation=painting.total_variation,
        codebook=painting.codebook,
    )


@dataclass
class _Job:
    """Images to paint, each written with its scores."""

    painter: Painter
    common: "list[Target]"
    settings: "PaintingSettings"
    options: PaintingOptions
    run: PaintRun
    destination: Destination
    report: RunReport
    console: Console

    def paint_all(
        self, sources: list[str | None], init_image: str | None, height: int, width: int
    ) -> None:
        """Paint an image of each source; one that cannot be read is skipped."""
        import torch

        painter, destination = self.painter, self.destination
        for index, source in enumerate(sources):
            try:
                targets = list(self.common)
                if source is not None:
                    targets[:0] = painter.audio_targets(source, 1.0, self.options.break_audio)
                generator = torch.Generator().manual_seed(self.run.seed + index)
                if init_image is None:
                    latent = painter.canvas.noise(height, width, generator)
                else:
                    latent = painter.canvas.encode(init_image, height, width)
            except UserError as error:
                self.report.skip(source, error)
                continue
            stem = destination.reserve(
                "painting" if source is None else Path(source).stem,
                [f".{destination.format}", ".json"],
            )
            path = destination.folder / f"{stem}.{destination.format}"
            painted, self.report.interrupted = self._paint(targets, latent, generator, path)
            scores = _write_scores(
                painted, targets, source=source, seed=self.run.seed + index, path=path
            )
            self.report.results["pictures"].append(scores)
            if not self.run.as_json:
                typer.echo(str(path))
            if self.report.interrupted:
                break

    def _paint(
        self,
        targets: "list[Target]",
        latent: "torch.Tensor",
        generator: "torch.Generator",
        path: Path,
    ) -> "tuple[Painted, bool]":
        """Paint and write one image; return the best, and whether Ctrl-C ended it."""
        from clip2clap.inference.painting.paint import Painting, paint
        from clip2clap.media.images import to_images, write_image

        started: list[Painting] = []
        interrupted = False
        painter, save_every = self.painter, self.options.save_every
        with progress_bar(self.console, "{task.description}") as progress:
            task = progress.add_task("Painting", total=self.settings.iterations)

            def on_step(painting: Painting, loss: float) -> None:
                started[:] = [painting]
                progress.update(
                    task, completed=painting.iteration, description=f"Painting, loss {loss:.3f}"
                )
                if save_every and painting.iteration % save_every == 0:
                    pixels = painter.canvas.pixels(painting.latent).detach().clamp(0, 1)
                    write_image(path, to_images(pixels)[0])

            try:
                best = paint(
                    painter.canvas,
                    painter.clip,
                    targets,
                    latent=latent,
                    options=self.settings,
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


def _write_scores(
    painted: "Painted", targets: "list[Target]", *, source: str | None, seed: int, path: Path
) -> dict[str, Any]:
    """Write an image's scores beside it, and return them."""
    from clip2clap.core.files import replacing

    scores = {
        "input": source,
        "output": str(path),
        "seed": seed,
        "iteration": painted.iteration,
        "loss": round(painted.loss, 4),
        "similarities": [
            {"target": target.name, "weight": target.weight, "similarity": round(value, 4)}
            for target, value in zip(targets, painted.similarities, strict=True)
        ],
        **_brisque(painted.image),
    }
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def _brisque(image: "Image") -> dict[str, Any]:
    from clip2clap.core.errors import MissingExtraError
    from clip2clap.metrics.image_quality import brisque

    try:
        score = brisque(image)
    except MissingExtraError as error:
        return {"brisque": None, "brisque_missing": str(error)}
    return {"brisque": None if score is None else round(score, 2)}
