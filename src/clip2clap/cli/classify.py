"""The verb `classify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.naming import (
    SegmentPrinter,
    check_timeline,
    find_files,
    load_encoders,
    name_files,
    noting_interruption,
)
from clip2clap.cli.options.search import Classify
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import RunReport
from clip2clap.cli.spoken import (
    check_spoken,
    load_spoken_labels,
    show_meant_images,
    write_answer,
)
from clip2clap.search.labels import Vocabulary, read_vocabulary


def classify(options: Classify) -> None:
    """Name images and audio by labels in words, without training.

    CLIP names images and CLAP audio. With --translator, images are named by what they would sound
    like, or audio by what it would look like.

    With --speech, the images are those that may be meant by what is said. With --spoken-labels,
    images are named by the nearest spoken name.

    A file that cannot be read is skipped; the exit code is then 1. With --output the labels go into
    a file of JSON lines, and a killed run goes on where it stopped.
    """
    labels = read_vocabulary(options.labels)
    sources = find_files(options.inputs, recursive=options.recursive)
    _check(options, sources)
    report = RunReport(options)
    if options.speech:
        with Console(stderr=True).status("Listening"):
            show_meant_images(options, sources, report)
        report.end()
        return
    if options.output is not None:
        _classify_into(options.output, options, labels, sources, report)
        return
    printer = _printer(options, report)
    files = _classified(options, labels, sources, report)
    printer.print_all(_spoken(files, report) if options.speak else files)
    report.end()


def _spoken(files: Iterator[Any], report: RunReport) -> Iterator[Any]:
    """Yield files, and write the spoken name of each after it is printed."""
    for file in files:
        yield file
        if file.reason is None:
            path = write_answer(file.source, file.segments[0].labels[0][0])
            report.show(str(path))
            report.results[-1]["spoken"] = str(path)


def _classify_into(
    path: Path, options: Classify, labels: Vocabulary, sources: list[str], report: RunReport
) -> None:
    """Classify the files that a file of JSON lines lacks, and append them to it."""
    from clip2clap.search.label_file import LabelFile

    printer = _printer(options, report)
    with LabelFile(path, _settings(options, labels)) as lines:
        left = lines.remaining(sources)
        with noting_interruption(report):
            for file in _classified(options, labels, left, report) if left else ():
                if file.reason is not None:
                    report.skip(file.source, file.reason)
                    lines.append(file.source, None, report.skipped[-1]["reason"])
                else:
                    lines.append(file.source, printer.segments(file))
        report.lap("generate")
        report.summarize(f"{len(lines)} files classified in {path}", len(sources), done=len(lines))
        report.results = {"output": str(path), "files": len(lines), "new": len(left)}
    report.end()


def _settings(options: Classify, labels: Any) -> dict[str, Any]:
    """Return all that the labels of a file depend on."""
    from clip2clap.embeddings.encoders.base import read_space
    from clip2clap.embeddings.encoders.speech import SpeechEncoder
    from clip2clap.embeddings.fingerprint import fingerprint_tensors
    from clip2clap.translator.auto import AutoTranslator

    translator = None
    if options.translator is not None:
        weights = AutoTranslator.from_pretrained(options.translator).state_dict()
        translator = fingerprint_tensors(weights.values())
    if options.spoken_labels is not None:
        labels = {
            "spoken": _digest_of_names(options.spoken_labels),
            "encoder": SpeechEncoder.from_pretrained(options.speech_encoder or "demo").fingerprint,
        }
    clip = read_space(options.clip or "demo", family="clip", modality="image")
    clap = read_space(options.clap or "demo", family="clap", modality="audio")
    return {
        "labels": labels,
        "template": options.template,
        "temperature": options.temperature,
        "top_k": options.top_k,
        "window_s": options.window_s,
        "clip": clip.fingerprint,
        "clap": clap.fingerprint,
        "translator": translator,
    }


def _digest_of_names(spoken_labels: str) -> list[str]:
    """Return the spoken names with the sizes of their files."""
    from clip2clap.search.spoken import read_spoken_labels

    if spoken_labels == "objectnet":
        return [spoken_labels]
    found = read_spoken_labels(spoken_labels)
    return [f"{file.name} {file.stat().st_size}" for files in found.values() for file in files]


def _classified(
    options: Classify, labels: Vocabulary, sources: list[str], report: RunReport
) -> Iterator[Any]:
    """Yield classified files under a progress bar."""
    with Console(stderr=True).status("Loading the models"):
        classifier = _load(options, labels, sources, report)
    report.lap("load")
    yield from name_files(
        classifier, options, sources, top=options.top_k, description="Classifying"
    )


def _printer(options: Classify, report: RunReport) -> SegmentPrinter:
    return SegmentPrinter(
        report,
        key="labels",
        columns=("label", "probability"),
        top_k=options.top_k,
        as_csv=options.as_csv and options.output is None,
        timeline=options.timeline,
    )


def _check(options: Classify, sources: list[str]) -> None:
    if options.output is not None:
        for param in ("as_csv", "timeline"):
            require(not getattr(options, param), param, "it cannot be combined with --output.")
        require(not options.output.is_dir(), "output", f"{options.output} is a folder, not a file.")
        make_folder(options.output.parent)
    require(
        not (options.as_json and options.as_csv), "as_csv", "it cannot be combined with --json."
    )
    check_timeline(options.timeline, sources)
    check_spoken(options, sources)
    check_models(options)
    check_device(options.device, None)


def _load(options: Classify, labels: Vocabulary, sources: list[str], report: RunReport) -> Any:
    from clip2clap.search.classify import FileClassifier

    encoders = load_encoders(options, sources)
    spoken = None
    if options.spoken_labels is not None:
        spoken = load_spoken_labels(options, encoders["clip"], report)
    return FileClassifier(
        labels,
        **encoders,
        spoken=spoken,
        templates=options.template,
        temperature=options.temperature,
    )
