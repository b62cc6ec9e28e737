"""Films of one or several audio files for one user."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.media.audio import load_audio
from clip2clap.web.folders import named_error
from clip2clap.web.models import Models
from clip2clap.web.runs import Run


@dataclass(frozen=True)
class FilmOrder:
    """Film to generate from audio files, one after another."""

    names: tuple[str, ...]
    """Names of the audio files."""
    paths: tuple[Path, ...]
    fps: int = 8
    crossfade_s: float = 1.0
    title: str | None = None
    paint_on: int = 0
    seed: int = 0
    steps: int | None = None


def make_film(
    models: Models, folder: Path, order: FilmOrder, run: Run, *, longest_s: float
) -> dict[str, Any]:
    """Generate a film into a folder, and return its file, frames and seconds.

    The latest frame is the run's preview.

    Raises:
        UserError: If audio cannot be read, all of it is silent, or together longer than
            `longest_s`.
        InterruptedCallError: If the run is cancelled.
    """
    from clip2clap.inference.film import from_pipeline, make
    from clip2clap.inference.film.options import FilmOptions

    run.advance(0.0, "Reading the audio")
    pipeline = models.audio_to_image
    side = pipeline.decoder.trained_size
    width, height = from_pipeline.film_size(side, side)
    options = FilmOptions(
        fps=order.fps,
        width=width,
        height=height,
        crossfade_in_s=order.crossfade_s,
        title=order.title,
    )
    total = max(1, round(_seconds(order, longest_s) * order.fps))
    frames = from_pipeline.pipeline_frames(
        pipeline,
        options,
        seed=order.seed,
        paint_on=order.paint_on,
        calls={"num_inference_steps": order.steps, "height": side, "width": side},
    )

    def make_frames(embeds: Any) -> np.ndarray:
        run.check()
        made = frames(embeds)
        run.preview = Image.fromarray(made[-1])
        return made

    def on_frames(count: int) -> None:
        run.advance(count / total, f"Frame {count} of about {total}")

    path = folder / f"{Path(order.names[0]).stem}.mp4"
    try:
        made = make.make_film(
            path,
            list(order.paths),
            embed=from_pipeline.pipeline_embed(pipeline),
            make_frames=make_frames,
            options=options,
            on_frames=on_frames,
        )
    except UserError as error:
        raise named_error(
            error, dict(zip(map(str, order.paths), order.names, strict=True))
        ) from error
    return {"files": [path], "frames": made.frames, "seconds": made.seconds}


def _seconds(order: FilmOrder, longest_s: float) -> float:
    """Return the length of all audio together, each file of which is read no further than that."""
    seconds = 0.0
    for name, path in zip(order.names, order.paths, strict=True):
        with path.open("rb") as file:
            waveform, rate = load_audio(file, longest_s=longest_s, name=name)
        seconds += len(waveform) / rate
    if seconds > longest_s:
        raise UserError(
            f"The audio files are longer than {longest_s:g} s together. Leave some out."
        )
    return seconds
