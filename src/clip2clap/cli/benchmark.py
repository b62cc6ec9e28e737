"""The verb `benchmark`."""

from typing import Any

from rich.console import Console

from clip2clap.cli.benchmark_images import measure_images
from clip2clap.cli.benchmark_results import IMAGE_DATASETS, begin_report, end_report
from clip2clap.cli.benchmark_speech import SPEECH_DATASETS, measure_speech
from clip2clap.cli.checks import check_device, choose_device, require
from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.progress import share_bar
from clip2clap.core.presets import check_name
from clip2clap.evaluation.benchmarks.protocols import choose_protocols

_DEFAULT_PROTOCOL = "clip2clap"
_DEFAULT_BATCH_SIZE = 16


def benchmark(options: Benchmark) -> None:
    """Measure a CLAP, a translator or a speech encoder on a published benchmark.

    ESC-50, UrbanSound8K and VGGSound are classified zero-shot, under protocols by name, and the
    first two by a linear probe and by fine-tuning; AudioCaps and Clotho are retrieved, text to
    audio and audio to text.

    The images of ImageHear are named by what they show and, translated, by what they would sound
    like.

    Of Flickr8k Audio, SpokenCOCO and Places Audio, images are retrieved by speech and speech by
    images, beside the CLIP's text encoder on transcripts (--asr) and on the captions as written.

    A folder that is not complete is refused, unless --partial is given. A killed run goes on where
    it stopped.
    """
    protocols = choose_protocols(options.protocol or [_DEFAULT_PROTOCOL])
    encoder = options.encoder or "demo"
    check_name(encoder, "clap", param="encoder")
    check_device(options.device, None)
    require(options.folder.is_dir(), "folder", f"{options.folder} is not a folder.")
    if options.dataset in SPEECH_DATASETS:
        return measure_speech(options)
    if options.dataset in IMAGE_DATASETS:
        return measure_images(options, protocols)
    _check_audio_options(options)

    from clip2clap.evaluation.benchmarks.folders import check_folds, read_benchmark

    data = read_benchmark(options.dataset, options.folder, partial=options.partial)
    for param in ("linear_probe", "fine_tune"):
        if getattr(options, param):
            check_folds(data.folds, param=param)
    report, output = begin_report(options)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.evaluation.benchmarks.run import BenchmarkConfig, run_benchmark

        clap = ClapEncoder.from_pretrained(encoder, device=choose_device(options.device))
    config = BenchmarkConfig(
        protocols=protocols,
        linear_probe=options.linear_probe,
        fine_tuning=_fine_tuning(options),
        partial=options.partial,
        batch_size=options.batch_size or _DEFAULT_BATCH_SIZE,
        resamples=options.resamples,
        seed=options.seed,
    )
    report.lap("load")
    with share_bar("Encoding") as advance:
        results = run_benchmark(data, clap, output, config, on_progress=advance)
    end_report(report, results, output)


def _check_audio_options(options: Benchmark) -> None:
    """Raise `UserError` for options that are not for a benchmark of a CLAP."""
    require(options.asr is None, "asr", f"{options.dataset} has no spoken captions.")
    require(options.translator is None, "translator", f"{options.dataset} has no images.")
    has_labels = options.dataset in ("esc50", "us8k", "vggsound")
    for param in ("protocol", "linear_probe", "fine_tune"):
        reason = f"{options.dataset} is retrieved by its captions and has no labels."
        require(has_labels or not getattr(options, param), param, reason)


def _fine_tuning(options: Benchmark) -> Any:
    """Return the settings of fine-tuning, None without."""
    from clip2clap.training.finetuning.config import FineTuningConfig

    given: dict[str, Any] = {"seed": options.seed}
    if options.epochs is not None:
        given["epochs"] = options.epochs
    if options.fine_tune in (None, "audioclip"):
        return FineTuningConfig.audioclip(**given) if options.fine_tune else None
    return FineTuningConfig(part=options.fine_tune, **given)
