"""Runs of the pipelines for one user: results in a folder, and what they were made from."""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.media.audio import load_audio, require_audible
from clip2clap.web.models import Models
from clip2clap.web.runs import Run

_LABELS_SHOWN = 3
_PREVIEW_EVERY = 10


@dataclass(frozen=True)
class AudioOrder:
    """Audio to generate from an image."""

    name: str
    """Name of the image's file, or its address."""
    content: bytes | None = field(repr=False)
    """Bytes of the file; None for an address."""
    seconds: float
    variations: int = 4
    candidates: int = 4
    negative_prompt: str | None = None
    seed: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class ImageOrder:
    """Images to generate from audio."""

    name: str
    """Name of the audio file."""
    path: Path
    count: int = 4
    seed: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class PaintingOrder:
    """Image to optimize towards audio."""

    name: str
    """Name of the audio file."""
    path: Path
    iterations: int = 150
    step_size: float = 0.1
    cutouts: int = 8
    parts: int = 2
    brisque: float = 0.0
    seed: int = 0


def make_audio(models: Models, folder: Path, order: AudioOrder, run: Run) -> dict[str, Any]:
    """Generate audio into a folder with a page, and return the entry of its manifest.

    Raises:
        UserError: If the image cannot be read, or an argument is invalid.
        InterruptedCallError: If the run is cancelled.
    """
    from clip2clap.inference.batch import BatchOptions, Job, generate_audio
    from clip2clap.search.labels import read_labels

    run.advance(0.0, "Reading the image")
    pipeline, entries = models.image_to_audio, list[dict[str, Any]]()
    can_hear = pipeline.generator_clap.is_local
    options = BatchOptions(
        seed=order.seed,
        num_variations=order.variations,
        labels=tuple(read_labels("demo-audio")) if can_hear else (),
    )
    generate_audio(
        pipeline,
        [Job(order.name, content=order.content)],
        folder,
        options,
        on_entry=lambda entry, _: entries.append(entry),
        progress=run,
        audio_length_in_s=order.seconds,
        negative_prompt=order.negative_prompt,
        num_inference_steps=order.steps,
        num_candidates=order.candidates,
    )
    (entry,) = entries
    if entry["status"] != "done":
        raise UserError(entry["reason"])
    return entry


def make_images(
    models: Models, folder: Path, order: ImageOrder, run: Run, *, longest_s: float
) -> dict[str, Any]:
    """Generate images into a folder, and return their files and the nearest labels.

    Raises:
        UserError: If the audio cannot be read, is silent or longer than `longest_s`.
        InterruptedCallError: If the run is cancelled.
    """
    from clip2clap.media.images import write_image
    from clip2clap.search.labels import read_labels

    run.advance(0.0, "Reading the audio")
    pipeline = models.audio_to_image
    audio = read_audio(order.path, order.name, longest_s)
    run.begin_batch(1, 1)
    result = pipeline(
        audio,
        num_candidates=order.count,
        num_inference_steps=order.steps,
        generator=[order.seed],
        batch_size=order.count,
        callback_on_step_end=run.count_step,
    )
    images: list[Any] = list(result.images)
    if result.similarities is not None:
        places = result.similarities[0].argsort(descending=True, stable=True).tolist()
        images = [images[place] for place in places]
    files = [folder / f"{Path(order.name).stem}-{n}.png" for n in range(1, len(images) + 1)]
    for path, image in zip(files, images, strict=True):
        write_image(path, image)
    nearest = []
    if pipeline.clip is not None and "text" in pipeline.clip.modalities:
        (nearest,) = pipeline.nearest_labels(result.image_embeds, read_labels("demo"))
    return {"files": files, "labels": nearest[:_LABELS_SHOWN]}


def make_painting(
    models: Models, folder: Path, order: PaintingOrder, run: Run, *, longest_s: float
) -> dict[str, Any]:
    """Optimize an image towards audio, and return its file and its scores.

    The latest image is the run's preview.

    Raises:
        UserError: If the audio cannot be read or is silent, or the decoder has no CLIP.
        InterruptedCallError: If the run is cancelled.
    """
    import torch

    from clip2clap.inference.painting.paint import PaintingOptions, default_cut_size, paint
    from clip2clap.inference.painting.targets import audio_targets
    from clip2clap.media.images import to_images, write_image
    from clip2clap.metrics.image_quality import brisque

    run.advance(0.0, "Reading the audio")
    pipeline, canvas = models.audio_to_image, models.canvas
    clip = pipeline.clip
    if clip is None:
        raise UserError("Painting needs the decoder's CLIP, and this decoder has none.")
    targets = audio_targets(
        *read_audio(order.path, order.name, longest_s),
        lambda audio: pipeline.translate(pipeline.encode_audio(audio)),
        name=order.name,
        parts=order.parts,
    )
    generator = torch.Generator().manual_seed(order.seed)
    side = canvas.default_side

    def on_step(painting: Any, loss: float) -> None:
        done = painting.iteration
        run.advance(done / order.iterations, f"Iteration {done} of {order.iterations}")
        if done % _PREVIEW_EVERY == 0:
            run.preview = to_images(canvas.pixels(painting.latent))[0]

    painted = paint(
        canvas,
        clip,
        targets,
        latent=canvas.noise(side, side, generator),
        options=PaintingOptions(
            iterations=order.iterations,
            step_size=order.step_size,
            cutouts=order.cutouts,
            cut_size=default_cut_size(clip),
            brisque=order.brisque,
        ),
        generator=generator,
        on_step=on_step,
    )
    path = folder / f"{Path(order.name).stem}.png"
    write_image(path, painted.image)
    scores = {"similarity": painted.similarities[0], "brisque": None}
    with contextlib.suppress(MissingExtraError):
        scores["brisque"] = brisque(painted.image)
    return {"files": [path], **scores}


def trim(folder: Path, source: Path, start: float, end: float) -> Path:
    """Write the part of a generated audio file between two times in s, and return its path.

    Raises:
        UserError: If the part is empty, or beyond the end.
    """
    from clip2clap.media.writing import write_audio

    if not 0 <= start < end:
        raise UserError("Expected an end after the start, and a start at 0 s or later.")
    waveform, rate = load_audio(source, start=start, seconds=end - start, name=source.name)
    path = folder / f"{source.stem}-trimmed{source.suffix}"
    write_audio(path, waveform, rate)
    return path


def read_audio(path: Path, name: str, longest_s: float) -> tuple[np.ndarray, int]:
    """Load audio of limited length, and return its waveform, shape (samples,), and its rate.

    Raises:
        UserError: If it cannot be read, is silent or too long.
    """
    with path.open("rb") as file:
        waveform, rate = load_audio(file, longest_s=longest_s, name=name)
    require_audible(waveform, name)
    return waveform, rate
