"""Throughput of extraction, relative to the bare encoders, and its memory.

- `images`: a folder of JPEGs through CLIP ViT-B/32, compared with the bare image encoder on
  preprocessed tensors.
- `audio`: a folder of 10 s files through CLAP's HTSAT, compared with its feature extractor and
  audio encoder in turn.
- `memory`: captions through a tiny encoder; memory beyond the encoder's, for few rows and for many.
- `downloads`: images from a server on this machine.

All with random weights. What is compared is timed alternately, and the best times count. On a
shared machine, `--cpu-time --threads 1` measures CPU seconds: a rate is then that of one core.

    python benchmarks/extraction.py images audio memory downloads
    python benchmarks/extraction.py images --device cuda --dtype bfloat16 --images 20000
"""

import csv
import io
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import soundfile
import torch
import typer
from full_size import made_up_captions, photographs, write_clap, write_clip
from transformers.utils import logging

from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.download.downloader import ImageDownloader
from clip2clap.embeddings.extraction.pipeline import ExtractionReport, extract
from clip2clap.embeddings.extraction.plan import Column, EncoderPlan

SOUND_SECONDS = 10
SOUND_RATE = 48_000
SOUND_BATCH = 16
IMAGE_BATCH = 64


@dataclass(frozen=True)
class Setup:
    """Settings of a measurement."""

    rounds: int
    tiny: bool
    cpu_time: bool
    device: str
    dtype: torch.dtype

    def seconds(self, job: Callable[[], Any]) -> float:
        """Return the seconds of one call."""
        clock = time.process_time if self.cpu_time else time.perf_counter
        start = clock()
        job()
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return clock() - start

    def plan(self, column: Column, model: Path) -> EncoderPlan:
        """Return the plan of a column."""
        models: Any = {column.split("_")[0]: str(model)}
        return EncoderPlan((column,), device=self.device, weights_dtype=self.dtype, **models)


def compare(
    name: str,
    rows: int,
    goal: float,
    setup: Setup,
    bare: Callable[[], Any],
    source: Path,
    plan: EncoderPlan,
) -> None:
    """Time the bare encoder and the extraction alternately, and print both."""
    table = source.with_name("table")
    bare()
    alone, whole, idle = [], [], []
    for _ in range(setup.rounds):
        alone.append(setup.seconds(bare))
        reports: list[ExtractionReport] = []
        loading = setup.seconds(plan.load) if setup.cpu_time else 0.0
        spent = setup.seconds(lambda r=reports: r.append(run(source, table, plan)))
        (report,) = reports
        whole.append(spent - loading if setup.cpu_time else report.seconds)
        idle.append((report.waiting_seconds or 0.0) / report.seconds)
    unit = "rows per second of one core" if setup.cpu_time else "rows/s"
    print(f"{name}: bare encoder   {rows / min(alone):8.2f} {unit}")
    print(f"{name}: extraction     {rows / min(whole):8.2f} {unit}")
    print(f"{name}: ratio          {min(alone) / min(whole):8.3f} (goal: at least {goal:g})")
    if not setup.cpu_time:
        print(f"{name}: encoder idle   {min(idle):8.1%} (goal: under 10%)")


def measure_images(folder: Path, rows: int, setup: Setup) -> None:
    """Compare a folder of JPEGs with the bare image encoder."""
    model, pictures = folder / "clip", folder / "pictures"
    write_clip(model, made_up_captions(100), tiny=setup.tiny)
    pictures.mkdir()
    for number, picture in enumerate(photographs(rows)):
        picture.save(pictures / f"{number:06d}.jpg", quality=90)
    plan = setup.plan("clip_image", model)
    backend: Any = plan.load().of("clip_image").backend
    ready = backend.preprocess_images(photographs(IMAGE_BATCH))["pixel_values"]
    ready = ready.to(setup.device, setup.dtype)

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, rows, IMAGE_BATCH):
            backend.model.get_image_features(pixel_values=ready[: min(IMAGE_BATCH, rows - start)])

    compare("images", rows, 0.9, setup, bare, pictures, plan)


def measure_audio(folder: Path, rows: int, setup: Setup) -> None:
    """Compare a folder of audio files with the feature extractor and the audio encoder."""
    model, sounds = folder / "clap", folder / "sounds"
    write_clap(model, made_up_captions(100), tiny=setup.tiny)
    sounds.mkdir()
    random = np.random.default_rng(0)
    waves = random.uniform(-0.5, 0.5, (SOUND_BATCH, SOUND_SECONDS * SOUND_RATE)).astype(np.float32)
    for number in range(rows):
        soundfile.write(sounds / f"{number:06d}.wav", waves[number % SOUND_BATCH], SOUND_RATE)
    plan = setup.plan("clap_audio", model)
    backend: Any = plan.load().of("clap_audio").backend

    @torch.no_grad()
    def bare() -> None:
        for start in range(0, rows, SOUND_BATCH):
            inputs = backend.preprocess_audio(list(waves[: min(SOUND_BATCH, rows - start)]))
            features = inputs.pop("input_features").to(setup.device, setup.dtype)
            backend.model.get_audio_features(input_features=features, **inputs)

    compare("audio", rows, 0.85, setup, bare, sounds, plan)


def run(source: Path, table: Path, plan: EncoderPlan) -> ExtractionReport:
    """Extract into a new table."""
    shutil.rmtree(table, ignore_errors=True)
    return extract(open_source([source], wanted=plan.wanted), table, plan)


def megabytes_beyond_the_encoder(folder: Path, rows: int, threads: int) -> float:
    """Return the peak memory of an extraction, less that of the process with the encoder."""
    torch.set_num_threads(threads)
    plan = EncoderPlan(("clip_text",), clip=str(folder / "clip"))
    encoder = plan.load().of("clip_text")
    encoder.encode_text(made_up_captions(1000), batch_size=plan.rows_in_batch)
    process = psutil.Process()
    own = peak = process.memory_info().rss
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(folder / f"{rows}.csv", folder / "table", plan)
    done.set()
    watcher.join()
    return (peak - own) / 1e6


def measure_memory(folder: Path, few: int, many: int, threads: int) -> None:
    """Measure peak memory for few rows and for many, each in its own process."""
    captions = made_up_captions(10_000)
    write_clip(folder / "clip", captions[:1000], tiny=True)
    for rows in (few, many):
        with (folder / f"{rows}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "caption"])
            writer.writerows((row, captions[row % len(captions)]) for row in range(rows))
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            peak = pool.submit(megabytes_beyond_the_encoder, folder, rows, threads).result()
        print(f"memory: {rows:>9,} rows {peak:8.0f} MB beyond the encoder's (goal: under 300)")


def measure_downloads(folder: Path, rows: int, setup: Setup) -> None:
    """Measure downloads from a server in its own process, decoded and cached."""
    fresh = multiprocessing.get_context("spawn")
    port: Any = fresh.Queue()
    server = fresh.Process(target=serve, args=(port,), daemon=True)
    server.start()
    address = f"http://127.0.0.1:{port.get()}/"
    urls = [(str(number), f"{address}{number}.jpg") for number in range(rows)]
    times = []
    for number in range(setup.rounds):
        cache = folder / f"cache-{number}"
        failed: list[str | None] = []

        def download(cache: Path = cache, failed: list[str | None] = failed) -> None:
            with ImageDownloader(
                DownloadConfig(cache=cache, per_host=32, allow_private=True)
            ) as downloader:
                failed += [done.reason for done in downloader(urls) if done.content is None]

        times.append(setup.seconds(download))
        if failed:
            raise SystemExit(f"{len(failed)} downloads failed: {failed[0]}")
    server.terminate()
    server.join()
    unit = "images per second of one core" if setup.cpu_time else "images/s"
    print(f"downloads: {rows / min(times):8.1f} {unit}, decoded and cached")


def serve(port: Any) -> None:
    """Answer every request with an image, while the process lives."""
    files = []
    for picture in photographs(16):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=90)
        files.append(file.getvalue())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = files[hash(self.path) % len(files)]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    port.put(server.server_port)


def main(
    parts: Annotated[
        list[str], typer.Argument(help="Measurements: images, audio, memory, downloads.")
    ],
    images: Annotated[int, typer.Option(help="Images in the folder.")] = 512,
    sounds: Annotated[int, typer.Option(help="Audio files in the folder.")] = 64,
    few_rows: Annotated[int, typer.Option(help="Captions of the small table.")] = 10_000,
    many_rows: Annotated[int, typer.Option(help="Captions of the large table.")] = 1_000_000,
    downloads: Annotated[int, typer.Option(help="Images to download.")] = 2_000,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="Device of the encoders.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Data type of the encoders.")] = "float32",
    cpu_time: Annotated[bool, typer.Option(help="Measure CPU seconds.")] = False,
    tiny: Annotated[bool, typer.Option(help="Small encoders, to test the benchmark.")] = False,
) -> None:
    """Run the measurements one after the other."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    setup = Setup(rounds, tiny, cpu_time, device, getattr(torch, dtype))
    for part in parts:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            match part:
                case "images":
                    measure_images(folder, images, setup)
                case "audio":
                    measure_audio(folder, sounds, setup)
                case "memory":
                    measure_memory(folder, few_rows, many_rows, threads)
                case "downloads":
                    measure_downloads(folder, downloads, setup)
                case _:
                    raise typer.BadParameter(
                        f"Expected images, audio, memory or downloads, got {part}."
                    )


if __name__ == "__main__":
    typer.run(main)
