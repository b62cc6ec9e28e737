"""Inputs, encoders and printed segments of the verbs that name or describe files."""

import csv
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from clip2clap.cli.checks import choose_device, require
from clip2clap.cli.inputs import load_named_image
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.files import expand_inputs, is_url

TIMELINE_WINDOW_S = 2.0
"""Length of the windows of a time line by default, in s."""


def find_files(inputs: list[str], *, recursive: bool) -> list[str]:
    """Return files and URLs, with folders and patterns replaced by the images and audio in them."""
    from clip2clap.media.audio import SUFFIXES as AUDIO_SUFFIXES
    from clip2clap.media.audio import VIDEO_SUFFIXES
    from clip2clap.media.images import SUFFIXES as IMAGE_SUFFIXES

    suffixes = AUDIO_SUFFIXES | VIDEO_SUFFIXES | IMAGE_SUFFIXES
    return list(expand_inputs(inputs, suffixes, "image and no audio", recursive=recursive))


def check_timeline(timeline: Path | None, sources: list[str]) -> None:
    """Raise `UserError` unless a time line is of one audio file; create its folder."""
    if timeline is None:
        return
    from clip2clap.media.audio import SUFFIXES, VIDEO_SUFFIXES

    require(
        len(sources) == 1 and not is_url(sources[0]),
        "timeline",
        f"it is of one audio file, and there are {len(sources)} inputs.",
    )
    require(timeline.suffix.lower() == ".png", "timeline", "expected a name in .png.")
    is_audio = Path(sources[0]).suffix.lower() in SUFFIXES | VIDEO_SUFFIXES
    require(is_audio, "timeline", f"{sources[0]} is no audio.")
    make_folder(timeline.parent, "timeline")


def load_encoders(options: Any, sources: list[str]) -> dict[str, Any]:
    """Return the CLIP, CLAP and translator that files need, None for the others."""
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.search.files import modality_of
    from clip2clap.translator.auto import AutoTranslator

    needed = set(map(modality_of, sources))
    device = choose_device(options.device)
    translator = None
    if options.translator is not None:
        translator = AutoTranslator.from_pretrained(options.translator).to(device)
        needed = {"image", "audio"}
    clip, clap = ("image" in needed, "audio" in needed)
    return {
        "clip": ClipEncoder.from_pretrained(options.clip or "demo", device=device)
        if clip
        else None,
        "clap": ClapEncoder.from_pretrained(options.clap or "demo", device=device)
        if clap
        else None,
        "translator": translator,
    }


def with_bar(files: Iterable[Any], total: int, description: str) -> Iterator[Any]:
    """Yield files under a progress bar."""
    with progress_bar(description) as progress:
        task = progress.add_task("", total=total)
        for file in files:
            yield file
            progress.advance(task)


def name_files(
    namer: Any, options: Any, sources: list[str], *, top: int, description: str
) -> Iterator[Any]:
    """Yield files with their labels over a verb's windows, under a progress bar.

    All labels are kept for a time line, else the `top` ones.
    """
    files = namer(
        sources,
        k=None if options.timeline else top,
        window_s=options.window_s or (TIMELINE_WINDOW_S if options.timeline else None),
        batch_size=options.batch_size,
        load=partial(load_named_image, allow_private=options.allow_private),
    )
    return with_bar(files, len(sources), description)


@contextmanager
def noting_interruption(report: RunReport) -> Iterator[None]:
    """End the block on Ctrl-C, and note it in the report."""
    try:
        yield
    except KeyboardInterrupt:
        report.interrupted = True


class SegmentPrinter:
    """Printer of the labels of files: lines, or CSV, and entries of the report.

    Args:
        report: Report of the run.
        key: Name of the list of labels in `--json`.
        columns: Names of a label and of its score, there and in CSV.
        top_k: Labels per segment.
        as_csv: Print CSV.
        timeline: Figure of a file's labels over time.
    """

    def __init__(
        self,
        report: RunReport,
        *,
        key: str,
        columns: tuple[str, str],
        top_k: int,
        as_csv: bool = False,
        timeline: Path | None = None,
    ):
        self.report, self.key, self.columns, self.top_k = report, key, columns, top_k
        self.timeline = timeline
        self._as_csv = as_csv
        if as_csv:
            self._print_row("file", "start_s", "end_s", "rank", *columns)

    def segments(self, file: Any) -> list[dict[str, Any]]:
        """Return the segments of a file with their labels as plain values."""
        name, score = self.columns
        return [
            {
                "start_s": None if each.start_s is None else round(each.start_s, 3),
                "end_s": None if each.end_s is None else round(each.end_s, 3),
                **({} if each.fits is None else {"fits": round(each.fits, 4)}),
                self.key: [
                    {name: label, score: round(value, 4)}
                    for label, value in each.labels[: self.top_k]
                ],
            }
            for each in file.segments
        ]

    def print_all(self, files: Iterable[Any]) -> None:
        """Print files as they come; Ctrl-C ends it."""
        with noting_interruption(self.report):
            for file in files:
                if file.reason is not None:
                    self.report.skip(file.source, file.reason)
                else:
                    self._print(file)
        self.report.lap("generate")

    def _print_row(self, *cells: Any) -> None:
        # A bar replaces stdout while it is shown.
        csv.writer(sys.stdout, lineterminator="\n").writerow(cells)

    def _print(self, file: Any) -> None:
        segments, (name, score) = self.segments(file), self.columns
        for segment in segments:
            start, end, labels = segment["start_s"], segment["end_s"], segment[self.key]
            if self._as_csv:
                for rank, each in enumerate(labels, start=1):
                    self._print_row(file.source, start, end, rank, each[name], each[score])
                continue
            span = "" if start is None else f" {start:g} to {end:g} s"
            named = ", ".join(f"{each[name]} {each[score]:.2f}" for each in labels)
            self.report.show(f"{file.source}{span}: {named or 'silent'}")
            self.report.warn_of_misfit(file.source, segment.get("fits"), "spoken name")
        self.report.results.append({"input": file.source, "segments": segments})
        if self.timeline is not None:
            from clip2clap.search.timeline import write_timeline

            write_timeline(self.timeline, file.segments, title=Path(file.source).name)
            if not self._as_csv:
                self.report.show(str(self.timeline))
