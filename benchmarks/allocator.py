"""Time and memory of keeping freed memory, as the command line does.

The same job runs in a process that returns freed buffers to the kernel, as glibc does, and in one
that keeps them (`clip2clap.keep_freed_memory`), alternately, each in a new process.

- `photographs`: images through the demo CLIP, as one batch.
- `vit`: the same through a CLIP ViT-B/32 with random weights.
- `sound`: audio candidates of one image with the demo models.
- `picture`: an image of audio with the demo models.
- `painting`: iterations of painting with cutouts.

Times are the best of all rounds, since other load only adds. Page faults do not depend on it.

    python benchmarks/allocator.py photographs sound painting
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from full_size import made_up_captions, photographs, write_clip

from clip2clap import (
    AudioToImagePipeline,
    ClipEncoder,
    ImageToAudioPipeline,
    keep_freed_memory,
)
from clip2clap.core.memory import peak_bytes
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.inference.painting.paint import Painting, PaintingOptions, Target, default_cut_size
from clip2clap.models.patch_autoencoder import PatchAutoencoder

PHOTOGRAPHS = 64
CANDIDATES = 4
ITERATIONS = 10


@dataclass(frozen=True)
class Measured:
    """Measurement of one process."""

    seconds: float
    """Seconds of the best round."""

    faults: int
    """Page faults in that round."""

    megabytes: float
    """Peak resident memory."""


def encode(clip: ClipEncoder) -> Callable[[], Any]:
    """Encode images as one batch."""
    pictures = list(photographs(PHOTOGRAPHS))
    return partial(clip.encode_image, pictures, batch_size=PHOTOGRAPHS)


def demo_clip() -> ClipEncoder:
    """Load the demo's image encoder."""
    return ClipEncoder.from_pretrained("demo", modalities=["image"])


def full_size_clip() -> ClipEncoder:
    """Build a CLIP ViT-B/32 with random weights."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "clip"
        write_clip(folder, made_up_captions(100))
        return ClipEncoder.from_pretrained(folder, modalities=["image"])


def generate_audio() -> Callable[[], Any]:
    """Generate the audio candidates of one image."""
    pipeline: Any = ImageToAudioPipeline.from_pretrained("demo")
    pipeline.set_progress_bar_config(disable=True)
    return partial(pipeline, next(iter(photographs(1))), num_candidates=CANDIDATES)


def generate_image() -> Callable[[], Any]:
    """Generate an image of 5 s of noise."""
    pipeline: Any = AudioToImagePipeline.from_pretrained("demo")
    pipeline.set_progress_bar_config(disable=True)
    noise = np.random.default_rng(0).normal(0, 0.1, 5 * 16_000).astype(np.float32)
    return partial(pipeline, (noise, 16_000))


def paint() -> Callable[[], Any]:
    """Paint a 64 x 64 image towards a random embedding with 8 cutouts."""
    clip, canvas = demo_clip(), Canvas(PatchAutoencoder())
    generator = torch.Generator().manual_seed(0)
    painting = Painting(
        canvas,
        clip,
        [Target(torch.nn.functional.normalize(torch.randn(512), dim=0))],
        latent=canvas.noise(64, 64, generator),
        options=PaintingOptions(cut_size=default_cut_size(clip)),
        generator=generator,
    )

    def iterate() -> None:
        for _ in range(ITERATIONS):
            painting.step()

    return iterate


JOBS: dict[str, Callable[[], Callable[[], Any]]] = {
    "photographs": lambda: encode(demo_clip()),
    "vit": lambda: encode(full_size_clip()),
    "sound": generate_audio,
    "picture": generate_image,
    "painting": paint,
}


def measure(name: str, kept: bool, rounds: int, threads: int) -> Measured:
    """Run a job in this process, once to warm up and then `rounds` times."""
    # Missing where there is no glibc, and so nothing to compare.
    import resource

    if kept and not keep_freed_memory():
        raise SystemExit("The C library is not glibc, or was set by the environment.")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    job = JOBS[name]()
    job()
    times = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        job()
        seconds = time.perf_counter() - start
        times.append((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before))
    seconds, faults = min(times)
    return Measured(seconds, faults, peak_bytes() / 1e6)


def main(
    jobs: Annotated[list[str] | None, typer.Argument(help="Jobs to run; all by default.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds per process.")] = 3,
    processes: Annotated[int, typer.Option(help="Processes with each setting.")] = 1,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Time jobs in processes that keep freed memory and in processes that return it."""
    fresh = multiprocessing.get_context("spawn")
    for name in jobs or JOBS:
        measured: dict[bool, list[Measured]] = {False: [], True: []}
        for _ in range(processes):
            for kept, results in measured.items():
                with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                    results.append(pool.submit(measure, name, kept, rounds, threads).result())
        best = {
            kept: min(results, key=lambda one: one.seconds) for kept, results in measured.items()
        }
        for kept, words in ((False, "returned"), (True, "kept")):
            one = best[kept]
            print(
                f"{name:12} {words:12} {one.seconds:7.3f} s {one.faults:>10,} page faults "
                f"{one.megabytes:6.0f} MB peak"
            )
        print(f"{name:12} ratio        {best[False].seconds / best[True].seconds:7.2f}")


if __name__ == "__main__":
    typer.run(main)
