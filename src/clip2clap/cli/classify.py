"""The verb `classify`."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, choose_device, require
from clip2clap.cli.inputs import load_named_image
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.search import Classify
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.files import expand_inputs, is_url
from clip2clap.search.labels import Vocabulary, read_vocabulary

_TIMELINE_WINDOW_S = 2.0
_COLUMNS = ("file", "start_s", "end_s", "rank", "label", "probability")


def classify(options: Classify) -> None:
    """Name images and audio by labels in words, without training.

    CLIP names images and CLAP audio. With --translator, images are named by what they would sound
    like, or audio by what it would look like.

    A file that cannot be read is skipped; the exit code is then 1. With --output the labels go into
    a file of JSON lines, and a killed run goes on where it stopped.
    """
    labels = read_vocabulary(options.labels)
    sources = _find(options.inputs)
    _check(options, sources)
    report = RunReport(options)
    if options.output is not None:
        _classify_into(options.output, options, labels, sources, report)
        return
    table = csv.writer(sys.stdout, lineterminator="\n") if options.as_csv else None
    if table is not None:
        table.writerow(_COLUMNS)
    with _noting_interruption(report):
        for file in _classified(options, labels, sources, report):
            if file.reason is not None:
                report.skip(file.source, file.reason)
            else:
                _show(file, options, report, table)
    report.lap("generate")
    report.end()


@contextmanager
def _noting_interruption(report: RunReport) -> Iterator[None]:
    """End the block on Ctrl-C, and note it in the report."""
    try:
        yield
    except KeyboardInterrupt:
        report.interrupted = True


def _classify_into(
    path: Path, options: Classify, labels: Vocabulary, sources: list[str], report: RunReport
) -> None:
    """Classify the files that a file of JSON lines lacks, and append them to it."""
    from clip2clap.search.label_file import LabelFile

    with LabelFile(path, _settings(options, labels)) as lines:
        left = lines.remaining(sources)
        with _noting_interruption(report):
            for file in _classified(options, labels, left, report) if left else ():
                if file.reason is not None:
                    report.skip(file.source, file.reason)
                    lines.append(file.source, None, report.skipped[-1]["reason"])
                else:
                    lines.append(file.source, _segments(file, options.top_k))
        report.lap("generate")
        report.summarize(f"{len(lines)} files classified in {path}", len(sources), done=len(lines))
        report.results = {"output": str(path), "files": len(lines), "new": len(left)}
    report.end()


def _settings(options: Classify, labels: Vocabulary) -> dict[str, Any]:
    """Return all that the labels of a file depend on."""
    from clip2clap.embeddings.encoders.base import read_space
    from clip2clap.embeddings.fingerprint import fingerprint_tensors
    from clip2clap.translator.auto import AutoTranslator

    translator = None
    if options.translator is not None:
        weights = AutoTranslator.from_pretrained(options.translator).state_dict()
        translator = fingerprint_tensors(weights.values())
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


def _classified(
    options: Classify, labels: Vocabulary, sources: list[str], report: RunReport
) -> Iterator[Any]:
    """Yield classified files under a progress bar."""
    with Console(stderr=True).status("Loading the models"):
        classifier = _load(options, labels, sources)
    report.lap("load")
    with progress_bar("Classifying") as progress:
        task = progress.add_task("", total=len(sources))
        for file in classifier(
            sources,
            k=None if options.timeline else options.top_k,
            window_s=options.window_s or (_TIMELINE_WINDOW_S if options.timeline else None),
            batch_size=options.batch_size,
            load=partial(load_named_image, allow_private=options.allow_private),
        ):
            yield file
            progress.advance(task)


def _find(inputs: list[str]) -> list[str]:
    """Return files and URLs, with folders and patterns replaced by the images and audio in them."""
    from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
    from clip2clap.media.audio import VIDEO_SUFFIXES
    from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES

    suffixes = AUDIO_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES
    return list(expand_inputs(inputs, suffixes, "image and no audio"))


def _check(options: Classify, sources: list[str]) -> None:
    if options.output is not None:
        for param in ("as_csv", "timeline"):
            require(not getattr(options, param), param, "it cannot be combined with --output.")
        require(not options.output.is_dir(), "output", f"{options.output} is a folder, not a file.")
        make_folder(options.output.parent)
    require(
        not (options.as_json and options.as_csv), "as_csv", "it cannot be combined with --json."
    )
    if options.timeline is not None:
        require(
            len(sources) == 1 and not is_url(sources[0]),
            "timeline",
            f"it is of one audio file, and there are {len(sources)} inputs.",
        )
        require(options.timeline.suffix.lower() == ".png", "timeline", "expected a name in .png.")
        make_folder(options.timeline.parent)
    check_models(options)
    check_device(options.device, None)


def _load(options: Classify, labels: Vocabulary, sources: list[str]) -> Any:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.search.classify import FileClassifier
    from clip2clap.search.files import modality_of
    from clip2clap.translator.auto import AutoTranslator

    needed = set(map(modality_of, sources))
    require(
        options.timeline is None or needed == {"audio"}, "timeline", f"{sources[0]} is no audio."
    )
    device = choose_device(options.device)
    translator = None
    if options.translator is not None:
        translator = AutoTranslator.from_pretrained(options.translator).to(device)
        needed = {"image", "audio"}
    return FileClassifier(
        labels,
        clip=ClipEncoder.from_pretrained(options.clip or "demo", device=device)
        if "image" in needed
        else None,
        clap=ClapEncoder.from_pretrained(options.clap or "demo", device=device)
        if "audio" in needed
        else None,
        translator=translator,
        templates=options.template,
        temperature=options.temperature,
    )


def _segments(file: Any, top_k: int) -> list[dict[str, Any]]:
    """Return the segments of a file with their labels as plain values."""
    return [
        {
            "start_s": None if each.start_s is None else round(each.start_s, 3),
            "end_s": None if each.end_s is None else round(each.end_s, 3),
            "labels": [
                {"label": label, "probability": round(value, 4)}
                for label, value in each.labels[:top_k]
            ],
        }
        for each in file.segments
    ]


def _show(file: Any, options: Classify, report: RunReport, table: Any) -> None:
    """Print the labels of a file, and add them to the report."""
    segments = _segments(file, options.top_k)
    for segment in segments:
        start, end, labels = segment["start_s"], segment["end_s"], segment["labels"]
        if table is not None:
            for rank, each in enumerate(labels, start=1):
                table.writerow([file.source, start, end, rank, each["label"], each["probability"]])
        else:
            span = "" if start is None else f" {start:g} to {end:g} s"
            named = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in labels)
            report.show(f"{file.source}{span}: {named or 'silent'}")
    report.results.append({"input": file.source, "segments": segments})
    if options.timeline is not None:
        from clip2clap.search.timeline import write_timeline

        write_timeline(options.timeline, file.segments, title=Path(file.source).name)
        report.show(str(options.timeline))
