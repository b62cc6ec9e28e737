"""Films: `audio-to-image --film`."""

import math
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from clip2clap.cli.checks import parse_size, require
from clip2clap.cli.options.generation import FilmOptions, ImageFiles, ImageOptions, SamplingOptions
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.errors import UserError

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.film.make import Film
    from clip2clap.inference.film.options import FilmOptions as FilmSettings

_SMALLEST_SIDE = 256


def check_film(film: FilmOptions, options: ImageOptions, sampling: SamplingOptions) -> None:
    """Check the options of films before a model is loaded.

    Raises:
        UserError: With the option.
    """
    require(not options.mix, "mix", "a film plays its inputs one after another. Use INPUT.")
    single = options.num_images == 1 and sampling.num_candidates in (None, 1)
    require(single, "num_images", "a film has one image at a time.")
    require(film.fps > 0, "fps", "expected above 0, got 0.")
    if film.film_size is not None:
        width, height = parse_size(film.film_size, "film_size")
        require(
            not width % 2 and not height % 2,
            "film_size",
            f"expected an even width and height, got {width} x {height}.",
        )


def film_settings(film: FilmOptions, options: ImageOptions) -> dict[str, Any]:
    """Return the options of films as `--json` prints them."""
    names = ("fps", "window", "smoothing", "crossfade", "walk", "paint_on", "title")
    return {
        **{name: getattr(film, name) for name in names},
        "size": film.film_size,
        "start": options.start_s,
        "seconds": options.duration_s,
    }


def plan_films(files: ImageFiles, sources: Sequence[str]) -> list[tuple[Path, list[str]]]:
    """Return each film's file with its inputs, and create the folder.

    Raises:
        UserError: If films cannot be written there.
    """
    output = files.output or Path("clip2clap-audio-to-image")
    place = choose_destination("film", output, 1, files.overwrite)
    stems = (
        [(Path(source).stem, [source]) for source in sources]
        if place.stem is None
        else [(place.stem, list(sources))]
    )
    return [(place.folder / f"{place.reserve(stem, ['.mp4'])}.mp4", parts) for stem, parts in stems]


def make_films(
    pipeline: "AudioToImagePipeline",
    plan: Sequence[tuple[Path, list[str]]],
    film: FilmOptions,
    options: ImageOptions,
    report: RunReport,
    calls: dict[str, Any],
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Generate films one by one, and exit; a film that fails is skipped.

    Args:
        pipeline: Pipeline that decodes the frames.
        plan: Each film's file with its inputs.
        film: Options of the films.
        options: Options of the audio.
        report: Report of the run.
        calls: Arguments of the pipeline's call.
        console: Console of the progress bar.
        as_json: Whether the report is printed in place of the files.
    """
    start = time.perf_counter()
    per_image = ("num_candidates", "batch_size")
    calls = {name: value for name, value in calls.items() if name not in per_image}
    settings = _settings(film, options, calls["height"], calls["width"])
    for index, (path, sources) in enumerate(plan):
        seed = report.settings["seed"] + index
        try:
            frames = _frames(pipeline, film, settings, calls, seed)
            made = _make_film(pipeline, path, sources, settings, frames, console)
        except UserError as error:
            report.skip(sources, error)
            continue
        except KeyboardInterrupt:
            report.interrupted = True
            break
        report.results["films"].append(
            {
                "input": sources,
                "output": str(path),
                "frames": made.frames,
                "seconds": round(made.seconds, 3),
                "seed": seed,
            }
        )
        if not as_json:
            typer.echo(str(path))
    report.seconds = {"make": round(time.perf_counter() - start, 3)}
    report.end(as_json=as_json)


def _settings(film: FilmOptions, options: ImageOptions, height: int, width: int) -> "FilmSettings":
    """Return the film's settings for frames of a size; small frames are enlarged."""
    from clip2clap.inference.film.options import FilmOptions as FilmSettings

    if film.film_size is not None:
        width, height = parse_size(film.film_size, "film_size")
    else:
        times = max(1, math.ceil(_SMALLEST_SIDE / min(height, width)))
        width, height = (side * times + side * times % 2 for side in (width, height))
    return FilmSettings(
        fps=Fraction(film.fps).limit_denominator(1001),
        width=width,
        height=height,
        window_in_s=film.window,
        hop_in_s=film.window / 4,
        smoothing_in_s=film.smoothing,
        crossfade_in_s=film.crossfade,
        title=film.title,
        start_in_s=options.start_s,
        length_in_s=options.duration_s,
    )


def _frames(
    pipeline: "AudioToImagePipeline",
    film: FilmOptions,
    settings: "FilmSettings",
    calls: dict[str, Any],
    seed: int,
) -> Any:
    """Return the frame generator: the decoder, or optimization of each frame from the last."""
    import torch

    from clip2clap.inference.film.frames import DecodedFrames, PaintedFrames
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import PaintingOptions, default_cut_size

    if not film.paint_on:
        return DecodedFrames(pipeline, settings, seed=seed, walk_in_s=film.walk, calls=calls)
    clip = pipeline.clip
    require(clip is not None, "paint_on", "painting needs the decoder's CLIP. Name it with --clip.")
    assert clip is not None
    canvas = Canvas(pipeline.vae)
    generator = torch.Generator().manual_seed(seed)
    return PaintedFrames(
        canvas,
        clip,
        settings,
        painting=PaintingOptions(iterations=film.paint_on, cut_size=default_cut_size(clip)),
        latent=canvas.noise(calls["height"], calls["width"], generator),
        seed=seed,
    )


def _make_film(
    pipeline: "AudioToImagePipeline",
    path: Path,
    sources: Sequence[str],
    settings: "FilmSettings",
    frames: Any,
    console: Console,
) -> "Film":
    """Generate a film of one input, or of several in sequence.

    Raises:
        UserError: If an input cannot be read, or all is silent.
    """
    from clip2clap.inference.film.make import make_film
    from clip2clap.media.video import FILM_RATE

    def embed(waveforms: Sequence[Any]) -> Any:
        # Parts of a film may be silent, which the pipeline's own encode_audio refuses.
        assert pipeline.clap is not None
        embeds = pipeline.clap.encode_audio([(waveform, FILM_RATE) for waveform in waveforms])
        return pipeline.translate(embeds)

    with progress_bar(console, "Making frames") as progress:
        task = progress.add_task("", total=None)
        return make_film(
            path,
            sources,
            embed=embed,
            make_frames=frames,
            options=settings,
            on_frames=lambda count: progress.update(task, completed=count),
        )
