"""Time of making a film, with stages that overlap in threads and stages that wait.

The CLAP is the demo's; the translator and the image decoder have the demo's sizes with random
weights.

    python benchmarks/film.py
"""

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
import typer
from torch import Tensor

from clip2clap import ClapEncoder, ClipEncoder, MLPTranslator
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.film import make as film
from clip2clap.inference.film.frames import DecodedFrames
from clip2clap.inference.film.make import make_film
from clip2clap.inference.film.options import FilmOptions
from clip2clap.inference.schedulers import few_step_scheduler
from clip2clap.media.video import FILM_RATE
from clip2clap.models.patch_autoencoder import PatchAutoencoder
from clip2clap.training.recipes.demo.diffusion import build_scheduler
from clip2clap.training.recipes.demo.image_decoder import STEPS, build_unet
from clip2clap.translator import Provenance


def demo_sized() -> AudioToImagePipeline:
    """Build a pipeline with the demo's sizes."""
    torch.manual_seed(0)
    clap = ClapEncoder.from_pretrained("demo", modalities=["audio"])
    clip = ClipEncoder.from_pretrained("demo", modalities=["image"])
    translator = MLPTranslator(
        clap.space("audio").dim,
        clip.space("image").dim,
        hidden_size=512,
        provenance=Provenance(clap.space("audio"), clip.space("image")),
    )
    pipeline = AudioToImagePipeline(
        clap=clap,
        translator=translator.eval(),
        clip=None,
        unet=build_unet().eval(),
        vae=PatchAutoencoder().eval(),
        scheduler=few_step_scheduler(build_scheduler().config),
        clip_space=clip.space("image").to_dict(),
        default_num_inference_steps=STEPS,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def at_once(items: Iterable[Any]) -> Any:
    """Yield items without reading ahead."""
    yield from items


def seconds(pipeline: Any, sound: Path, options: FilmOptions, steps: int | None) -> float:
    """Time one film."""

    def embed(waveforms: Any) -> Tensor:
        embeds = pipeline.clap.encode_audio([(waveform, FILM_RATE) for waveform in waveforms])
        return pipeline.translate(embeds)

    frames = DecodedFrames(pipeline, options, calls={"num_inference_steps": steps})
    start = time.perf_counter()
    made = make_film(
        sound.with_suffix(".mp4"), [sound], embed=embed, make_frames=frames, options=options
    )
    assert made.frames
    return time.perf_counter() - start


def main(
    length: Annotated[float, typer.Option(help="Duration of the film in s.")] = 10.0,
    fps: Annotated[int, typer.Option(help="Frames per second.")] = 8,
    size: Annotated[int, typer.Option(help="Side of the film in pixels.")] = 256,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps; the demo's by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 2,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Time films whose stages overlap and films whose stages wait."""
    torch.set_num_threads(threads)
    pipeline = demo_sized()
    options = FilmOptions(fps=fps, width=size, height=size)
    ahead = film.read_ahead
    times: dict[str, list[float]] = {"overlap": [], "wait": []}
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, round(length * FILM_RATE))
        soundfile.write(sound, noise, FILM_RATE)
        for _ in range(rounds):
            times["overlap"].append(seconds(pipeline, sound, options, steps))
            film.read_ahead = at_once
            times["wait"].append(seconds(pipeline, sound, options, steps))
            film.read_ahead = ahead
    overlap, wait = min(times["overlap"]), min(times["wait"])
    print(f"film                    {length:g} s at {fps} frames per second, {size} x {size}")
    print(f"stages overlap          {overlap:7.1f} s (goal for 10 s at 8: under 60 s)")
    print(f"stages wait             {wait:7.1f} s")
    print(f"ratio                   {wait / overlap:7.2f}")


if __name__ == "__main__":
    typer.run(main)
