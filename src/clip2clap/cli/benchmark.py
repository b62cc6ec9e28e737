"""The verb `benchmark`."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.benchmark_images import IMAGE_DATASETS, measure_images
from clip2clap.cli.benchmark_speech import SPEECH_DATASETS, measure_speech
from clip2clap.cli.checks import check_device, choose_device, require
from clip2clap.cli.options.benchmark import Benchmark
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, plain_table, share_bar
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
        return measure_speech(options, _shown)
    if options.dataset in IMAGE_DATASETS:
        return measure_images(options, protocols, _shown)
    _check_audio_options(options)

    from clip2clap.evaluation.benchmarks.folders import check_folds, read_benchmark

    data = read_benchmark(options.dataset, options.folder, partial=options.partial)
    for param in ("linear_probe", "fine_tune"):
        if getattr(options, param):
            check_folds(data.folds, param=param)
    report = RunReport(options)
    output = options.output or Path(f"clip2clap-benchmark-{options.dataset}")
    keep_others_out(output)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.evaluation.benchmarks.run import BenchmarkConfig, run_benchmark
        from clip2clap.evaluation.report.benchmark import write_benchmark_page

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
    report.lap("measure")
    page = write_benchmark_page(results, output)
    report.show(*_shown(results), f"Report: {page}")
    for source, reason in results["unreadable"].items():
        report.skip(source, reason)
    report.end(results)


def _check_audio_options(options: Benchmark) -> None:
    """Raise `UserError` for options that are not for a benchmark of a CLAP."""
    require(options.asr is None, "asr", f"{options.dataset} has no spoken captions.")
    require(options.translator is None, "translator", f"{options.dataset} has no images.")
    has_labels = options.dataset in ("esc50", "us8k", "vggsound")
    for param in ("protocol", "linear_probe", "fine_tune"):
        reason = f"{options.dataset} is retrieved by its captions and has no labels."
        require(has_labels or not getattr(options, param), param, reason)


def _shown(results: dict[str, Any]) -> list[Any]:
    """Return a title, the table and notes."""
    items = "images" if results["benchmark"] in IMAGE_DATASETS else "clips"
    title = f"{results['title']}, {results['clips']} of {results['expected']} {items}"
    return [title, _table(results), *_notes(results)]


def _fine_tuning(options: Benchmark) -> Any:
    """Return the settings of fine-tuning, None without."""
    from clip2clap.training.finetuning.config import FineTuningConfig

    given: dict[str, Any] = {"seed": options.seed}
    if options.epochs is not None:
        given["epochs"] = options.epochs
    if options.fine_tune in (None, "audioclip"):
        return FineTuningConfig.audioclip(**given) if options.fine_tune else None
    return FineTuningConfig(part=options.fine_tune, **given)


def _table(results: dict[str, Any]) -> Table:
    """Return measured rows, and published ones below."""
    from clip2clap.evaluation.report.benchmark import percent, retrievals

    if not results["labels"]:
        table = plain_table("", "recall at 1", "at 5", "at 10", "mAP@10")
        for name, found in retrievals(results):
            table.add_row(name, *map(percent, found.values()))
        for one in results["published"]:
            if "recall_at_1" in one:
                name = f"{one['model']}, {one['direction']} ({one['source']})"
                table.add_row(name, f"{one['recall_at_1']:.1f} %")
        return table
    titles = ("method", "protocol", "accuracy", "unseen folds", "folds", "shuffled", "source")
    table = plain_table("model", *titles)
    for one in results["results"]:
        folds = f"{100 * one['mean_of_folds']:.1f} ± {100 * one['standard_deviation_of_folds']:.1f}"
        unseen = "" if one["unseen"] is None else percent(one["unseen"])
        cells = [one["method"], one["protocol"], percent(one["accuracy"]), unseen, folds]
        table.add_row(results["encoder"], *cells, percent(one["shuffled"]), "here")
    for one in results["published"]:
        cells = [one["method"], one["protocol"], f"{one['accuracy']:.2f} %", "", "", ""]
        table.add_row(one["model"], *cells, one["source"])
    for column in table.columns[1:]:
        column.justify = "left"
    return table


def _notes(results: dict[str, Any]) -> list[str]:
    from clip2clap.evaluation.report.benchmark import trained_on

    notes = [
        f"{one['protocol']}: {one['settings']['description']}."
        for one in results["results"]
        if "settings" in one
    ]
    if results["trained_on"]:
        notes.append(trained_on(results))
    if results["lacking"]:
        notes.append(
            f"Not complete, so not comparable with published numbers: {results['lacking']}."
        )
    return notes
