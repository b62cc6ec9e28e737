"""The verb `classify`."""

import csv
import sys
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

    A file that cannot be read is skipped; the exit code is then 1.
    """
    labels = read_vocabulary(options.labels)
    sources = _find(options.inputs)
    _check(options, sources)
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        classifier = _load(options, labels, sources)
    report.lap("load")
    window = options.window_s or (_TIMELINE_WINDOW_S if options.timeline else None)
    table = csv.writer(sys.stdout, lineterminator="\n") if options.as_csv else None
    if table is not None:
        table.writerow(_COLUMNS)
    with progress_bar("Classifying") as progress:
        task = progress.add_task("", total=len(sources))
        try:
            for file in classifier(
                sources,
                k=None if options.timeline else options.top_k,
                window_s=window,
                batch_size=options.batch_size,
                load=partial(load_named_image, allow_private=options.allow_private),
            ):
                if file.reason is not None:
                    report.skip(file.source, file.reason)
                else:
                    _show(file, options, report, table)
                progress.advance(task)
        except KeyboardInterrupt:
            report.interrupted = True
    report.lap("generate")
    report.end()


def _find(inputs: list[str]) -> list[str]:
    """Return files and URLs, with folders and patterns replaced by the images and audio in them."""
    from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
    from clip2clap.media.audio import VIDEO_SUFFIXES
    from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES

    suffixes = AUDIO_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES
    return list(expand_inputs(inputs, suffixes, "image and no audio"))


def _check(options: Classify, sources: list[str]) -> None:
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
    from clip2clap.search.classify import FileClassifier, modality_of
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


def _show(file: Any, options: Classify, report: RunReport, table: Any) -> None:
    """Print the labels of a file, and add them to the report."""
    segments = []
    for segment in file.segments:
        shown = segment.labels[: options.top_k]
        start, end = (
            None if at is None else round(at, 3) for at in (segment.start_s, segment.end_s)
        )
        labels = [{"label": label, "probability": round(value, 4)} for label, value in shown]
        segments.append({"start_s": start, "end_s": end, "labels": labels})
        if table is not None:
            for rank, each in enumerate(labels, start=1):
                table.writerow([file.source, start, end, rank, each["label"], each["probability"]])
        else:
            span = "" if start is None else f" {start:g} to {end:g} s"
            named = ", ".join(f"{label} {value:.2f}" for label, value in shown)
            report.show(f"{file.source}{span}: {named or 'silent'}")
    report.results.append({"input": file.source, "segments": segments})
    if options.timeline is not None:
        from clip2clap.search.timeline import write_timeline

        write_timeline(options.timeline, file.segments, title=Path(file.source).name)
        report.show(str(options.timeline))
