"""Films: what `clip2clap audio-to-image --film` does."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clip2clap.cli.image_batches import PictureReport
from clip2clap.cli.options import OptionError, parse_size, require
from clip2clap.cli.progress import progress_bar

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.film.film import Film, FilmOptions

_SMALLEST_SIDE = 256
_OTHER_SUFFIXES = (".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif", ".mpg")
_PANEL = "Film"

FilmFlag = Annotated[
    bool,
    typer.Option(
        "--film",
        help="Make a film that follows the sound: one of each recording into a folder, or one of "
        "all, one after another, into an .mp4.",
        rich_help_panel=_PANEL,
    ),
]
Fps = Annotated[float, typer.Option(metavar="N", help="Frames a second.", rich_help_panel=_PANEL)]
Size = Annotated[
    str | None,
    typer.Option(
        metavar="WxH",
        help="The film's size in pixels, to which frames are scaled; even numbers.",
        rich_help_panel=_PANEL,
    ),
]
Window = Annotated[
    float,
    typer.Option(metavar="S", help="How much sound a frame is of.", rich_help_panel=_PANEL),
]
Smoothing = Annotated[
    float,
    typer.Option(metavar="S", help="How long a change takes.", rich_help_panel=_PANEL),
]
Crossfade = Annotated[
    float,
    typer.Option(
        metavar="S", help="How long a recording fades into the next.", rich_help_panel=_PANEL
    ),
]
Walk = Annotated[
    float,
    typer.Option(
        metavar="S",
        help="Let the noise walk around once in so many seconds; 0 keeps it.",
        rich_help_panel=_PANEL,
    ),
]
PaintOn = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Paint each frame on from the last in N steps, as clip2clap paint does, instead of "
        "decoding it.",
        rich_help_panel=_PANEL,
    ),
]
Title = Annotated[
    str | None,
    typer.Option(metavar="WORDS", help="Begin with a card that says this.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True)
class FilmRequest:
    """What a user wants of films."""

    fps: float
    """Frames a second."""

    size: str | None
    """Width and height as the user gave them."""

    window: float
    """How much sound a frame is of, in s."""

    smoothing: float
    """Standard deviation of the smoothing, in s."""

    crossfade: float
    """How long a recording fades into the next, in s."""

    walk: float
    """How long the noise takes for one round, in s; 0 keeps it."""

    paint_on: int
    """Steps a painted frame takes; 0 decodes frames."""

    title: str | None
    """What the title card says."""

    start: float
    """Where to begin in each recording, in s."""

    seconds: float | None
    """How much of each recording to take, in s."""

    def check(self) -> None:
        """Refuse what makes no sense, before a model is loaded.

        Raises:
            OptionError: Naming the option.
        """
        require(0 < self.fps <= 120, "--fps", f"expected above 0 to 120, got {self.fps:g}.")
        require(0 < self.window < math.inf, "--window", f"expected above 0 s, got {self.window:g}.")
        for name in ("smoothing", "crossfade", "walk"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"--{name}", f"expected 0 s or more, got {value:g}.")
        require(self.paint_on >= 0, "--paint-on", f"expected 0 or more, got {self.paint_on}.")
        if self.size is not None:
            width, height = parse_size(self.size)
            require(
                not width % 2 and not height % 2,
                "--size",
                f"a film's width and height are even numbers, got {width} x {height}.",
            )

    def options(self, height: int, width: int) -> "FilmOptions":
        """Give the film's options for frames of a size; small frames make a larger film."""
        from clip2clap.inference.film.film import FilmOptions

        if self.size is not None:
            width, height = parse_size(self.size)
        else:
            times = max(1, math.ceil(_SMALLEST_SIDE / min(height, width)))
            width, height = (side * times + side * times % 2 for side in (width, height))
        return FilmOptions(
            fps=Fraction(self.fps).limit_denominator(1001),
            width=width,
            height=height,
            window_in_s=self.window,
            hop_in_s=self.window / 4,
            smoothing_in_s=self.smoothing,
            crossfade_in_s=self.crossfade,
            title=self.title,
            start_in_s=self.start,
            length_in_s=self.seconds,
        )


def plan_films(
    output: Path, sources: Sequence[str], *, overwrite: bool
) -> list[tuple[Path, list[str]]]:
    """Say which films are made of which recordings, and make the folder.

    Raises:
        OptionError: If films can't be written there.
    """
    from clip2clap.core.files import free_stem

    suffix = output.suffix.lower()
    is_file_name = suffix == ".mp4" and not output.is_dir()
    require(
        suffix not in _OTHER_SUFFIXES,
        "--output",
        f"{suffix} cannot be written. Use .mp4, or name a folder.",
    )
    folder = output.parent if is_file_name else output
    require(
        not folder.exists() or folder.is_dir(), "--output", f"{folder} is a file, not a folder."
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}.") from error
    wanted = (
        [(output.stem, list(sources))]
        if is_file_name
        else [(Path(source).stem, [source]) for source in sources]
    )
    films, taken = [], set[str]()
    for stem, parts in wanted:
        free = free_stem(folder, stem, [] if overwrite else [".mp4"], taken=taken)
        taken.add(free.casefold())
        films.append((folder / f"{free}.mp4", parts))
    return films


def make_films(
    pipeline: "AudioToImagePipeline",
    planned: Sequence[tuple[Path, list[str]]],
    request: FilmRequest,
    report: PictureReport,
    settings: dict[str, Any],
    console: Console,
    *,
    as_json: bool,
) -> None:
    """Make films one by one, and end as the verb does; one that can't be made is skipped.

    Args:
        pipeline: What hears and paints.
        planned: Each film's file with its recordings.
        request: What films are like.
        report: Tells of them.
        settings: What the pipeline is called with, and what a film has no use for.
        console: Where the bar is shown.
        as_json: Whether the report is printed, in place of the files.
    """
    from clip2clap.core.errors import UserError

    began = time.perf_counter()
    calls = {
        name: value
        for name, value in settings.items()
        if name not in ("num_images_per_prompt", "batch_size")
    }
    for index, (path, sources) in enumerate(planned):
        seed = report.settings["seed"] + index
        try:
            film = _make_one(
                pipeline, path, sources, request, calls=calls, seed=seed, console=console
            )
        except UserError as error:
            report.skip(sources, error)
            continue
        except KeyboardInterrupt:
            report.interrupted = True
            break
        report.films.append(
            {
                "input": sources,
                "output": str(path),
                "frames": film.frames,
                "seconds": round(film.seconds, 3),
                "seed": seed,
            }
        )
        if not as_json:
            typer.echo(str(path))
    report.seconds = {"make": round(time.perf_counter() - began, 3)}
    report.end(as_json=as_json)


def _make_one(
    pipeline: "AudioToImagePipeline",
    path: Path,
    sources: Sequence[str],
    request: FilmRequest,
    *,
    calls: dict[str, Any],
    seed: int,
    console: Console,
) -> "Film":
    """Make one film of one recording, or of several one after another.

    Args:
        pipeline: What hears and paints.
        path: The MP4 to write.
        sources: Recordings.
        request: What the film is like.
        calls: What the pipeline is called with beside the vectors.
        seed: Where the noise comes from.
        console: Where the bar is shown.

    Returns:
        What was made.

    Raises:
        UserError: If a recording can't be read, or all is silent.
    """
    import torch

    from clip2clap.inference.film.film import DecodedFrames, PaintedFrames, make_film
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import PaintingOptions, default_cut_size
    from clip2clap.media.video import FILM_RATE

    height, width = calls["height"], calls["width"]
    options = request.options(height, width)
    if request.paint_on:
        require(
            pipeline.clip is not None,
            "--paint-on",
            "painting needs the decoder's own CLIP. Name it with --clip.",
        )
        assert pipeline.clip is not None
        canvas = Canvas(pipeline.vae)
        frames: Any = PaintedFrames(
            canvas,
            pipeline.clip,
            options,
            painting=PaintingOptions(
                iterations=request.paint_on, cut_size=default_cut_size(pipeline.clip)
            ),
            latent=canvas.noise(height, width, torch.Generator().manual_seed(seed)),
            seed=seed,
        )
    else:
        frames = DecodedFrames(pipeline, options, seed=seed, walk_in_s=request.walk, calls=calls)

    def hear(waveforms: Sequence[Any]) -> torch.Tensor:
        assert pipeline.clap is not None
        return pipeline.translate(
            pipeline.clap.encode_audio([(waveform, FILM_RATE) for waveform in waveforms])
        )

    with progress_bar(console, "Filming") as progress:
        task = progress.add_task("", total=None)
        return make_film(
            path,
            sources,
            embed=hear,
            make_frames=frames,
            options=options,
            on_frames=lambda count: progress.update(task, completed=count),
        )
