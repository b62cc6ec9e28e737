"""Classification of translated images: a part of the verb `benchmark`."""

from typing import Any

from rich.console import Console

from clip2clap.cli.benchmark_results import begin_report, end_report
from clip2clap.cli.checks import check_translator, choose_device, require
from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.progress import share_bar
from clip2clap.core.presets import check_name


def measure_images(options: Benchmark, protocols: Any) -> None:
    """Measure a translator on images with labels, as `benchmark` does.

    Args:
        options: Options of the verb.
        protocols: Protocols of the words in CLAP space.
    """
    for param in ("linear_probe", "fine_tune", "asr"):
        reason = f"{options.dataset} has images, and neither speech nor folds to train on."
        require(not getattr(options, param), param, reason)
    check_name(options.clip or "demo", "clip", param="clip")
    check_translator(options.translator)

    from clip2clap.evaluation.benchmarks.folders import read_benchmark

    data = read_benchmark(options.dataset, options.folder, partial=options.partial)
    report, output = begin_report(options)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.embeddings.encoders.clip import ClipEncoder
        from clip2clap.evaluation.benchmarks.images import run_image_benchmark
        from clip2clap.evaluation.benchmarks.run import BenchmarkConfig
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
    end_report(report, results, output)
