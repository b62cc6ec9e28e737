"""Films: `audio-to-image --film`."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from clip2clap.cli.checks import parse_size, require
from clip2clap.cli.options.generation import AudioToImage
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.errors import UserError


def check_film(options: AudioToImage) -> None:
    """Check the options of films before a model is loaded.

    Raises:
        UserError: With the option.
    """
    require(not options.mix, "mix", "a film plays its inputs one after another. Use INPUT.")
    single = options.num_images == 1 and options.num_candidates in (None, 1)
    require(single, "num_images", "a film has one image at a time.")
    require(options.fps > 0, "fps", "expected above 0, got 0.")
    if options.film_size is not None:
        width, height = parse_size(options.film_size, "film_size")
        is_even = not width % 2 and not height % 2
        sides = f"expected an even width and height, got {width} x {height}."
        require(is_even, "film_size", sides)


def plan_films(
    options: AudioToImage, sources: Sequence[str], default: str
) -> list[tuple[Path, list[str]]]:
    """Return each film's file with its inputs, and create the folder.

    Raises:
        UserError: If films cannot be written there.
    """
    place = choose_destination("film", options, 1, default=default, sole=True)
    if place.stem is not None:
        return [(place.reserve(place.stem, [".mp4"])[0], list(sources))]
    return [(place.reserve(Path(each).stem, [".mp4"])[0], [each]) for each in sources]


def make_films(
    pipeline: Any,
    plan: Sequence[tuple[Path, list[str]]],
    options: AudioToImage,
    report: RunReport,
    calls: dict[str, Any],
    *,
    speech: Any = None,
) -> None:
    """Generate films one by one, and exit; a film that fails is skipped.

    Args:
        pipeline: Pipeline that decodes the frames.
        plan: Each film's file with its inputs.
        options: Options of the verb.
        report: Report of the run.
        calls: Arguments of the pipeline's call.
        speech: Speech encoder, if the inputs are speech: each is encoded as a whole.
    """
    from clip2clap.inference.film.from_pipeline import pipeline_frames

    per_image = ("num_candidates", "batch_size")
    calls = {name: value for name, value in calls.items() if name not in per_image}
    settings = _settings(options, calls["height"], calls["width"])
    for seed, (path, sources) in enumerate(plan, options.seed):
        try:
            frames = pipeline_frames(
                pipeline,
                settings,
                seed=seed,
                walk_in_s=options.walk,
                paint_on=options.paint_on,
                calls=calls,
            )
            made = _make_film(pipeline, path, sources, settings, frames, speech)
        except UserError as error:
            report.skip(sources, error)
            continue
        except KeyboardInterrupt:
            report.interrupted = True
            break
        seconds = round(made.seconds, 3)
        entry = {"output": str(path), "frames": made.frames, "seconds": seconds}
        report.results.append({"input": sources, "seed": seed, **entry})
        report.show(str(path))
    report.lap("generate")
    report.end()


def _settings(options: AudioToImage, height: int, width: int) -> Any:
    """Return the film's settings for frames of a size; small frames are enlarged."""
    from clip2clap.inference.film.from_pipeline import film_size
    from clip2clap.inference.film.options import FilmOptions

    if options.film_size is not None:
        width, height = parse_size(options.film_size, "film_size")
    else:
        width, height = film_size(height, width)
    return FilmOptions(
        fps=Fraction(options.fps).limit_denominator(1001),
        width=width,
        height=height,
        window_in_s=options.window,
        hop_in_s=options.window / 4,
        smoothing_in_s=options.smoothing,
        crossfade_in_s=options.crossfade,
        title=options.title,
        start_in_s=options.start_s,
        length_in_s=options.duration_s,
    )


def _make_film(
    pipeline: Any, path: Path, sources: Sequence[str], settings: Any, frames: Any, speech: Any
) -> Any:
    """Generate a film of one input, or of several in sequence.

    Raises:
        UserError: If an input cannot be read, or all is silent.
    """
    from clip2clap.inference.film.from_pipeline import pipeline_embed
    from clip2clap.inference.film.make import make_film

    with progress_bar("Making frames") as progress:
        task = progress.add_task("", total=None)
        return make_film(
            path,
            sources,
            embed=pipeline_embed(pipeline, speech),
            make_frames=frames,
            options=settings,
            whole=speech is not None,
            on_frames=lambda count: progress.update(task, completed=count),
        )
