"""CPU seconds of one image's audio by the demo models, by part, and of the options that cost less.

    python benchmarks/candidates.py --length 10

takes a minute. The best of several runs counts.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import torch
import typer
from PIL import Image

from clip2clap import ImageToAudioPipeline

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "one candidate": {"num_candidates": 1},
    "whole audio is ranked": {"draft_candidates": False},
    "features reused every second step": {"cache_interval": 2},
}


def timed(job: Callable[..., Any], seconds: dict[str, float], name: str) -> Callable[..., Any]:
    """Return a function that adds its CPU seconds to those of a part."""

    @wraps(job)
    def run(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = job(*args, **kwargs)
        seconds[name] += time.process_time() - start
        return result

    return run


def main(
    length: Annotated[float, typer.Option(help="Seconds of audio.")] = 10.0,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each option.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Print the CPU seconds of each option, and of its parts."""
    torch.set_num_threads(threads)
    pipe: Any = ImageToAudioPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    seconds: dict[str, float] = defaultdict(float)
    for part in ("unet", "vocoder"):
        # Of the class, since a call with cache_interval copies the UNet.
        model_class: Any = type(getattr(pipe, part))
        model_class.forward = timed(model_class.forward, seconds, part)
    pipe.rank = timed(pipe.rank, seconds, "ranking")
    image = Image.effect_mandelbrot((640, 480), (-2.0, -1.5, 1.0, 1.5), 50).convert("RGB")
    pipe(image, num_inference_steps=1, num_candidates=2)
    for name, options in OPTIONS.items():
        found = []
        for _ in range(runs):
            seconds.clear()
            start = time.process_time()
            pipe(image, generator=0, audio_length_in_s=length, **options)
            found.append((time.process_time() - start, dict(seconds)))
        total, parts = min(found, key=lambda each: each[0])
        shown = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
        typer.echo(f"{name}: {total:.2f} s ({shown})")


if __name__ == "__main__":
    typer.run(main)
