"""Retrieval between speech and images: a part of the verb `benchmark`."""

from rich.console import Console

from clip2clap.cli.benchmark_results import begin_report, end_report
from clip2clap.cli.checks import choose_device, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.progress import share_bar

SPEECH_DATASETS = ("flickr8k-audio", "spoken-coco", "places-audio")
"""Data sets of spoken captions."""

_DEFAULT_BATCH_SIZE = 16


def measure_speech(options: Benchmark) -> None:
    """Measure a speech encoder on spoken captions, as `benchmark` does.

    Args:
        options: Options of the verb.
    """
    for param in ("protocol", "linear_probe", "fine_tune", "encoder"):
        reason = f"{options.dataset} has spoken captions. It goes with a CLAP's benchmarks."
        require(not getattr(options, param), param, reason)
    check_models(options)

    from clip2clap.evaluation.benchmarks.speech import read_speech_benchmark

    data = read_speech_benchmark(
        options.dataset, options.folder, image_dir=options.image_dir, partial=options.partial
    )
    report, output = begin_report(options)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clip import ClipEncoder
        from clip2clap.embeddings.encoders.speech import SpeechEncoder
        from clip2clap.evaluation.benchmarks.speech import run_speech_benchmark
        from clip2clap.evaluation.benchmarks.transcripts import Transcriber

        device = choose_device(options.device)
        clip = ClipEncoder.from_pretrained(options.clip or "demo", device=device)
        speech = SpeechEncoder.from_pretrained(options.speech_encoder or "demo", device=device)
        transcriber = None if options.asr is None else Transcriber(options.asr, device=device)
    report.lap("load")
    with share_bar("Encoding") as advance:
        results = run_speech_benchmark(
            data,
            speech,
            clip,
            output,
            transcriber=transcriber,
            batch_size=options.batch_size or _DEFAULT_BATCH_SIZE,
            partial=options.partial,
            resamples=options.resamples,
            seed=options.seed,
            on_progress=advance,
        )
    missing = [] if transcriber else ["No baseline by recognition: add --asr NAME for one."]
    end_report(report, results, output, *missing)
