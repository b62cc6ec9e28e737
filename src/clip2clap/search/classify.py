"""Zero-shot classification of image and audio files, whole or over time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError, expect, is_number
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.media.arrays import mix_down
from clip2clap.media.audio import is_silent, load_audio, stream_audio
from clip2clap.media.images import load_image
from clip2clap.search.files import modality_of

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.embeddings.space import EmbeddingSpace
    from clip2clap.translator.base import Translator

SHORTEST_WINDOW_S = 0.05
"""Length of the shortest windows, in s."""

_BATCH_SIZES = {"image": 64, "audio": 16}


@dataclass(frozen=True)
class Segment:
    """Labels of a file, or of a window of audio, the most likely first; none where it is silent.

    The start and end in s are None for a whole file.
    """

    labels: list[tuple[str, float]]
    start_s: float | None = None
    end_s: float | None = None
    fits: float | None = None
    """Probability that the first label fits at all, if it is known."""


@dataclass(frozen=True)
class ClassifiedFile:
    """Segments of a file, or the reason why it could not be read."""

    source: str
    segments: list[Segment]
    reason: UserError | OSError | None = None


@dataclass(frozen=True)
class _Part:
    """File, window of audio, or the end of a file in windows, whose content is None.

    The content is a file's name, or a waveform with its sampling rate.
    """

    source: str
    content: Any = None
    span: tuple[float | None, float | None] = (None, None)
    reason: UserError | OSError | None = None
    is_last: bool = True


class FileClassifier:
    """Zero-shot classifier of image and audio files with CLIP and CLAP.

    With a translator, files of its source modality are named in its target space: images by what
    they would sound like, or audio by what it would look like.

    Args:
        labels: Labels to choose from, or the texts that stand for each.
        clip: CLIP that encodes images, or the labels of translated audio.
        clap: CLAP that encodes audio, or the labels of translated images.
        translator: Translator from one's space into the other's.
        spoken: Classifier of images by spoken names, in place of the labels.
        templates: As for `ZeroShotClassifier`, as is `temperature`.
        temperature: Divisor of the similarities in the softmax.

    Raises:
        SpaceMismatchError: If the translator was trained for other encoders.
        UserError: As for `ZeroShotClassifier`.

    Examples:
        >>> from clip2clap import ClapEncoder, ClipEncoder
        >>> clip, clap = ClipEncoder.from_pretrained("demo"), ClapEncoder.from_pretrained("demo")
        >>> classifier = FileClassifier(["dog", "rain"], clip=clip, clap=clap)
        >>> [file.source for file in classifier(["dog.jpg", "bark.wav"])]
        ['dog.jpg', 'bark.wav']
    """

    def __init__(
        self,
        labels: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        clip: "ClipEncoder | None" = None,
        clap: "ClapEncoder | None" = None,
        translator: "Translator | None" = None,
        spoken: ZeroShotClassifier | None = None,
        templates: str | Sequence[str] | None = None,
        temperature: float | None = None,
    ):
        self._encoders: dict[str, Any] = {"image": clip, "audio": clap}
        self._translator = translator
        classifier = partial(
            ZeroShotClassifier, labels=labels, templates=templates, temperature=temperature
        )
        self._classifiers: dict[str, ZeroShotClassifier] = {}
        for modality, encoder in self._encoders.items():
            if encoder is None:
                continue
            if modality == "image" and spoken is not None:
                self._classifiers[modality] = spoken
                continue
            if translator is not None and modality == _source_modality(translator):
                other = self._encoders["audio" if modality == "image" else "image"]
                expect(other is not None, "translator", "used with both a CLIP and a CLAP", None)
                translator.check_source(encoder.space(modality))
                translator.check_target(other.space("text"))
                encoder = other
            if "text" in encoder.modalities:
                self._classifiers[modality] = classifier(encoder)

    @property
    def label_spaces(self) -> "dict[str, EmbeddingSpace]":
        """Spaces of the labels that files of each modality are named by."""
        return {
            modality: classifier.encoder.space("text")
            for modality, classifier in self._classifiers.items()
        }

    def __call__(
        self,
        files: Sequence[str | Path],
        *,
        k: int | None = 5,
        window_s: float | None = None,
        batch_size: int | None = None,
        load: Callable[[str], Any] = load_image,
        longest_s: float | None = None,
    ) -> Iterator[ClassifiedFile]:
        """Classify files, in the order given, while threads read the next ones.

        Args:
            files: Images, http(s) URLs of images, and audio files.
            k: Labels per segment; all if None.
            window_s: Length of the windows, in s, that audio is classified in; as a whole if None.
            batch_size: Images or windows per batch; by default 64 images or 16 windows.
            load: Reads an image; by default as `load_image` does.
            longest_s: Length of whole audio files, in s, from which on they are refused.

        Yields:
            Labels of each file, or the reason why it was not classified.

        Raises:
            UserError: If the window is shorter than `SHORTEST_WINDOW_S`, or no number.
        """
        if window_s is not None:
            long_enough = is_number(window_s) and window_s >= SHORTEST_WINDOW_S
            expect(long_enough, "window_s", f"{SHORTEST_WINDOW_S:g} s or longer", window_s)
        with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
            for modality, run in groupby(map(str, files), modality_of):
                size = batch_size or _BATCH_SIZES[modality]
                prepare = partial(self._prepare, modality, load, longest_s)
                parts = map_ahead(
                    prepare, self._parts(modality, run, window_s), pool, ahead=2 * size
                )
                yield from self._classify(modality, batched(parts, size), k, size)

    def classify_embeds(
        self, modality: Literal["image", "audio"], embeds: Tensor, k: int | None = 5
    ) -> list[list[tuple[str, float]]]:
        """Return the likeliest labels of embeddings of this classifier's encoder, shape (n, d).

        Raises:
            UserError: If the encoder has no text encoder for the labels.
        """
        if modality not in self._classifiers:
            raise UserError(f"There is no encoder of {modality} and of text to name {modality} by.")
        return self._classifiers[modality].nearest(self._translated(modality, embeds), k)

    def _parts(
        self, modality: Any, files: Iterable[str], window_s: float | None
    ) -> Iterator["_Part"]:
        """Yield files, or their windows one by one, so that memory does not grow with length."""
        encoder = self._encoders[modality]
        if modality == "image" or encoder is None or window_s is None:
            yield from (_Part(source, content=source) for source in files)
            return
        rate = encoder.backend.sampling_rate
        for source in files:
            reason = None
            try:
                for start, window in _windows(source, round(window_s * rate), rate):
                    span = start / rate, (start + len(window)) / rate
                    yield _Part(source, (window, rate), span, is_last=False)
            except (UserError, OSError) as error:
                reason = error
            yield _Part(source, reason=reason)

    def _prepare(
        self, modality: Any, load: Callable[[str], Any], longest_s: float | None, part: "_Part"
    ) -> tuple["_Part", Any]:
        """Return a part with its preprocessed input, None if it is silent or cannot be read."""
        encoder, content = self._encoders[modality], part.content
        try:
            if content is not None and modality not in self._classifiers:
                raise UserError(f"{part.source} is {modality}, and there is no encoder for it.")
            if content is not None and modality == "image":
                content = load(content)
            elif isinstance(content, str):
                content = load_audio(content, longest_s=longest_s)
            is_empty = content is None or (modality == "audio" and is_silent(content[0]))
            return part, None if is_empty else encoder.preprocess(modality, [content])[0]
        except (UserError, OSError) as error:
            return replace(part, reason=error), None

    def _classify(
        self, modality: Any, batches: Iterable[list[Any]], k: int | None, size: int
    ) -> Iterator[ClassifiedFile]:
        segments: list[Segment] = []
        reason = None
        for batch in batches:
            inputs = [found for _, found in batch if found is not None]
            found_labels: Iterator[Any] = iter(())
            if inputs:
                encoder = self._encoders[modality]
                embeds = encoder.encode_preprocessed(modality, inputs, batch_size=size)
                translated = self._translated(modality, embeds)
                classifier = self._classifiers[modality]
                labels, fits = classifier.nearest(translated, k), classifier.fits(translated)
                found_labels = zip(labels, fits, strict=True)
            for part, found in batch:
                reason = reason or part.reason
                if part.content is not None:
                    own, fit = ([], None) if found is None else next(found_labels)
                    segments.append(Segment(own, *part.span, fits=fit))
                if part.is_last:
                    yield ClassifiedFile(part.source, [] if reason else segments, reason)
                    segments, reason = [], None

    @torch.no_grad()
    def _translated(self, modality: Literal["image", "audio"], embeds: Tensor) -> Tensor:
        translator = self._translator
        if translator is None or modality != _source_modality(translator):
            return embeds
        return translator(embeds.to(translator.device)).float().cpu()


def _source_modality(translator: "Translator") -> str:
    space = translator.source_space
    return "image" if space is None or space.family == "clip" else "audio"


def _windows(source: str, length: int, rate: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield windows of audio side by side with their first sample; the last may be shorter."""
    held, start = np.zeros(0, np.float32), 0
    for block in stream_audio(source, sampling_rate=rate):
        held = np.concatenate([held, mix_down(block)])
        while len(held) >= length:
            yield start, held[:length]
            held, start = held[length:], start + length
    if len(held):
        yield start, held
