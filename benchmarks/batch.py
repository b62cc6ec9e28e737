"""Time and memory of a batch of images by the demo models.

    python benchmarks/batch.py time
    python benchmarks/batch.py memory

`time` compares a batch with one call of the pipeline per image, whose file is written after it,
and with one command per image. Batches and calls alternate, so that other programs slow both.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from timing import seconds

from clip2clap import ImageToAudioPipeline
from clip2clap.core.memory import peak_bytes
from clip2clap.inference.batch import BatchOptions, Job, generate_audio
from clip2clap.media.writing import write_audio

ROUNDS = 4
COMMANDS = 3

app = typer.Typer(add_completion=False)


def write_images(folder: Path, count: int) -> list[str]:
    """Write images of the size of a small photograph."""
    random_state = np.random.default_rng(0)
    paths = [folder / f"{number:04d}.jpg" for number in range(count)]
    for path in paths:
        coarse = random_state.integers(0, 256, (12, 16, 3), np.uint8)
        Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(path)
    return [str(path) for path in paths]


@app.command("time")
def compare_times(
    images: int = 64, steps: int = 4, candidates: int = 1, length: float = 5.12, threads: int = 2
) -> None:
    """Compare a batch with one call per image, and with one command per image."""
    torch.set_num_threads(threads)
    pipe = ImageToAudioPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"num_inference_steps": steps, "num_candidates": candidates}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_images(folder, images)

        def run_batch(part: list[str], number: int) -> None:
            jobs = [Job(path) for path in part]
            options = BatchOptions(batch_size=8)
            generate_audio(
                pipe, jobs, folder / f"{number}", options, audio_length_in_s=length, **call
            )

        def run_calls(part: list[str]) -> None:
            for index, path in enumerate(part):
                result = pipe(path, generator=index, audio_length_in_s=length, **call)
                file = Path(path).with_suffix(".wav")
                write_audio(file, result.audios[0], result.sampling_rate)

        def run_command(path: str) -> None:
            options = f"--num-inference-steps {steps} --num-candidates {candidates} -o {path}.wav"
            command = [sys.executable, "-m", "clip2clap", "image-to-audio", path, *options.split()]
            subprocess.run(command, check=True, capture_output=True)

        pipe(paths[0], audio_length_in_s=length, **call)
        took = {"batch": 0.0, "calls": 0.0}
        for number in range(ROUNDS):
            part = paths[number::ROUNDS]
            took["batch"] += seconds(lambda part=part, number=number: run_batch(part, number))
            took["calls"] += seconds(lambda part=part: run_calls(part))
        command = sum(seconds(lambda path=path: run_command(path)) for path in paths[:COMMANDS])
    print(f"{images} images: batch {took['batch']:.1f} s, one call each {took['calls']:.1f} s")
    print(f"batch {took['calls'] / took['batch']:.2f} times as fast as calls")
    commands = command / COMMANDS * images
    print(f"{commands / took['batch']:.1f} times as fast as one command each")


@app.command("memory")
def compare_memory(few: int = 50, many: int = 500) -> None:
    """Compare the peak memory of two batches, each in a process of its own."""
    peaks = {}
    for count in (few, many):
        command = [sys.executable, __file__, "peak", str(count)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[count] = json.loads(printed.splitlines()[-1]) / 1e6
        print(f"{count} images: {peaks[count]:.0f} MB", flush=True)
    print(f"difference: {peaks[many] - peaks[few]:.0f} MB")


@app.command("peak", hidden=True)
def print_peak(count: int) -> None:
    """Run a batch of the cheapest settings, and print the peak memory in bytes."""
    torch.set_num_threads(1)
    pipe = ImageToAudioPipeline.from_pretrained("demo")
    pipe.set_progress_bar_config(disable=True)
    with tempfile.TemporaryDirectory() as name:
        jobs = [Job(path) for path in write_images(Path(name), count)]
        call: dict[str, Any] = {"num_inference_steps": 1, "num_candidates": 1}
        generate_audio(
            pipe,
            jobs,
            Path(name) / "out",
            BatchOptions(batch_size=4),
            audio_length_in_s=1.0,
            **call,
        )
    print(peak_bytes())


if __name__ == "__main__":
    app()
