"""Names, keywords and captions of uploaded images and audio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import UserError, one_line
from clip2clap.web.runs import Run

if TYPE_CHECKING:
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.classify import FileClassifier
    from clip2clap.search.keywords import KeywordExtractor

SHOWN = 5
"""Labels of a file."""


@dataclass(frozen=True)
class NamedFile:
    """Labels and caption of a file."""

    name: str
    """Name of the file."""
    labels: list[tuple[str, float]]
    """Labels and their scores, the most likely first."""
    reason: str | None = None
    """Reason if it has none."""
    caption: str | None = None


def name_files(
    files: Sequence[tuple[str, Path]],
    load: "Callable[[], FileClassifier | KeywordExtractor]",
    run: Run,
    *,
    longest_s: float,
    captioner: "FileCaptioner | None" = None,
) -> list[NamedFile]:
    """Name files one by one.

    Args:
        files: Names and paths.
        load: Returns what names them.
        run: Run to report to.
        longest_s: Length of audio from which on it is refused.
        captioner: Captioner, if files are to have captions, too.

    Raises:
        InterruptedCallError: If the run is cancelled.
    """
    run.advance(0.0, "Encoding the labels")
    classifier, named = load(), list[NamedFile]()
    for number, (name, path) in enumerate(files, 1):
        run.advance((number - 1) / len(files), f"File {number} of {len(files)}")
        found = _name(classifier([path], k=SHOWN, longest_s=longest_s), name, path)
        if captioner is not None and found.reason is None:
            (file,) = captioner([path], longest_s=longest_s)
            found = replace(found, caption=file.captions[0] if file.captions else None)
        named.append(found)
    return named


def _name(classified: Iterator[Any], name: str, path: Path) -> NamedFile:
    try:
        (file,) = classified
        if file.reason is not None:
            raise file.reason
    except (UserError, OSError) as error:
        return NamedFile(name, [], one_line(error).replace(str(path), name))
    labels = file.segments[0].labels
    return NamedFile(name, labels, None if labels else f"{name} is silent.")
