"""Names, keywords and captions of uploaded images and audio."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import UserError, one_line
from clip2clap.media.images import load_image
from clip2clap.media.synthesis import speak
from clip2clap.media.writing import write_audio
from clip2clap.search.files import modality_of
from clip2clap.web.making import read_audio
from clip2clap.web.runs import Run

if TYPE_CHECKING:
    from clip2clap.search.caption import FileCaptioner
    from clip2clap.search.classify import FileClassifier
    from clip2clap.search.keywords import KeywordExtractor
    from clip2clap.web.models import Models

SHOWN = 5
"""Labels of a file."""
_LONGEST_ANSWER = 400


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


def choose_images(
    files: Sequence[tuple[str, Path]],
    speech: tuple[str, Path],
    models: "Models",
    run: Run,
    *,
    longest_s: float,
) -> list[NamedFile]:
    """Rank images by the probability that they are meant by what is said.

    Args:
        files: Names and paths of images.
        speech: Name and path of the speech.
        models: Models, with a speech encoder.
        run: Run to report to.
        longest_s: Length of speech from which on it is refused.

    Returns:
        Images, the most likely first, and then files that are none, with the reason.

    Raises:
        UserError: If the speech cannot be read, or is silent.
        InterruptedCallError: If the run is cancelled.
    """
    from clip2clap.search.spoken import rank_images

    assert models.speech is not None
    run.advance(0.0, "Listening")
    name, path = speech
    speech_embeds = models.speech.encode_audio([read_audio(path, name, longest_s)])
    images, others = [], []
    for shown, image in files:
        try:
            images.append((shown, load_image(image)))
        except (UserError, OSError) as error:
            others.append(NamedFile(shown, [], one_line(error).replace(str(image), shown)))
    run.advance(0.5, "Looking")
    if not images:
        return others
    image_embeds = models.clip.encode_image([image for _, image in images])
    (shares,) = rank_images(speech_embeds, image_embeds, scale=models.clip.logit_scale).tolist()
    found = [
        NamedFile(shown, [("meant", share)])
        for (shown, _), share in zip(images, shares, strict=True)
    ]
    return sorted(found, key=lambda each: -each.labels[0][1]) + others


def speak_answer(folder: Path, files: Sequence[NamedFile]) -> Path | None:
    """Write what files were named by as speech, and return its path; None if none has a name.

    Raises:
        MissingExtraError: If no synthesizer is installed.
    """
    said = [
        f"A photo of a {each.labels[0][0]}."
        if modality_of(each.name) == "image"
        else f"The sound of a {each.labels[0][0]}."
        for each in files[:SHOWN]
        if each.labels
    ]
    if not said:
        return None
    path = folder / "answer.wav"
    write_audio(path, *speak(" ".join(said)[:_LONGEST_ANSWER]))
    return path


def _name(classified: Iterator[Any], name: str, path: Path) -> NamedFile:
    try:
        (file,) = classified
        if file.reason is not None:
            raise file.reason
    except (UserError, OSError) as error:
        return NamedFile(name, [], one_line(error).replace(str(path), name))
    labels = file.segments[0].labels
    return NamedFile(name, labels, None if labels else f"{name} is silent.")
