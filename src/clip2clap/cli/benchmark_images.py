"""Classification of translated images: a part of the verb `benchmark`."""

from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_translator, choose_device, require
from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, share_bar
from clip2clap.core.presets import check_name

IMAGE_DATASETS = ("imagehear",)
"""Data sets of images with labels."""


def measure_images(options: Benchmark, protocols: Any, show: Any) -> None:
    """Measure a translator on images with labels, as `benchmark` does.

    Args:
        options: Options of the verb.
        protocols: Protocols of the words in CLAP space.
        show: Returns what is printed of the results.
    """
    for param in ("linear_probe", "fine_tune", "asr"):
        reason = f"{options.dataset} has images, and neither speech nor folds to train on."
        require(not getattr(options, param), param, reason)
    check_name(options.clip or "demo", "clip", param="clip")
    check_translator(options.translator)

    from clip2clap.evaluation.benchmarks.folders import read_benchmark

    data = read_benchmark(options.dataset, options.folder, partial=options.partial)
    report = RunReport(options)
    output = options.output or Path(f"clip2clap-benchmark-{options.dataset}")
    keep_others_out(output)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.embeddings.encoders.clip import ClipEncoder
        from clip2clap.evaluation.benchmarks.images import run_image_benchmark
        from clip2clap.evaluation.benchmarks.run import BenchmarkConfig
        from clip2clap.evaluation.report.benchmark import write_benchmark_page
        from clip2clap.translator.auto import AutoTranslator

        device = choose_device(options.device)
        clip = ClipEncoder.from_pretrained(options.clip or "demo", device=device)
        clap = ClapEncoder.from_pretrained(options.encoder or "demo", device=device)
        translator = AutoTranslator.from_pretrained(options.translator or "demo")
    report.lap("load")
    config = BenchmarkConfig(
        protocols=protocols,
        partial=options.partial,
        resamples=options.resamples,
        seed=options.seed,
    )
    with share_bar("Encoding") as advance:
        results = run_image_benchmark(
            data, clip, clap, translator, output, config, on_progress=advance
        )
    report.lap("measure")
    page = write_benchmark_page(results, output)
    report.show(*show(results), f"Report: {page}")
    for source, reason in results["unreadable"].items():
        report.skip(source, reason)
    report.end(results)
