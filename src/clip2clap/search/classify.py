"""Zero-shot classification of image and audio files, whole or over time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
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


@dataclass(frozen=True)
class ClassifiedFile:
    """Segments of a file, or the reason why it could not be read."""

    source: str
    segments: list[Segment]
    reason: UserError | OSError | None = None


class FileClassifier:
    """Zero-shot classifier of image and audio files with CLIP and CLAP.

    With a translator, files of its source modality are named in its target space: images by what
    they would sound like, or audio by what it would look like.

    Args:
        labels: Labels to choose from, or the texts that stand for each.
        clip: CLIP that encodes images, or the labels of translated audio.
        clap: CLAP that encodes audio, or the labels of translated images.
        translator: Translator from one's space into the other's.
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
            if translator is not None and modality == _source_modality(translator):
                other = self._encoders["audio" if modality == "image" else "image"]
                expect(other is not None, "translator", "used with both a CLIP and a CLAP", None)
                translator.check_source(encoder.space(modality))
                translator.check_target(other.space("text"))
                encoder = other
            if "text" in encoder.modalities:
                self._classifiers[modality] = classifier(encoder)

    def __call__(
        self,
        files: Sequence[str | Path],
        *,
        k: int | None = 5,
        window_s: float | None = None,
        batch_size: int | None = None,
        load: Callable[[str], Any] = load_image,
    ) -> Iterator[ClassifiedFile]:
        """Classify files, in the order given, while threads read the next ones.

        Args:
            files: Images, http(s) URLs of images, and audio files.
            k: Labels per segment; all if None.
            window_s: Length of the windows, in s, that audio is classified in; as a whole if None.
            batch_size: Images or windows per batch; by default 64 images or 16 windows.
            load: Reads an image; by default as `load_image` does.

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
                read = partial(self._read, modality, window_s, load)
                for batch in batched(map_ahead(read, run, pool, ahead=2 * size), size):
                    yield from self._classify(modality, batch, k, size)

    def _read(
        self, modality: Any, window_s: float | None, load: Callable[[str], Any], source: str
    ) -> Any:
        """Return a file with its spans in s and preprocessed inputs, or the reason of a failure."""
        encoder = self._encoders[modality]
        try:
            if modality not in self._classifiers:
                raise UserError(f"{source} is {modality}, and there is no encoder for it.")
            if modality == "image":
                return source, [(None, None)], encoder.preprocess(modality, [load(source)])
            if window_s is None:
                spans, heard = [(None, None)], [load_audio(source)]
            else:
                rate = encoder.backend.sampling_rate
                windows = list(_windows(source, round(window_s * rate), rate))
                spans = [(start / rate, (start + len(each)) / rate) for start, each in windows]
                heard = [(window, rate) for _, window in windows]
            inputs = [
                None if is_silent(each[0]) else encoder.preprocess(modality, [each])[0]
                for each in heard
            ]
            return source, spans, inputs
        except (UserError, OSError) as error:
            return source, [], error

    def _classify(
        self, modality: Any, batch: list[Any], k: int | None, size: int
    ) -> Iterator[ClassifiedFile]:
        inputs = [each for _, spans, found in batch if spans for each in found if each is not None]
        labels = iter(())
        if inputs:
            encoder = self._encoders[modality]
            embeds = encoder.encode_preprocessed(modality, inputs, batch_size=size)
            embeds = self._translated(modality, embeds)
            labels = iter(self._classifiers[modality].nearest(embeds, k))
        for source, spans, found in batch:
            if not spans:
                yield ClassifiedFile(source, [], found)
                continue
            segments = [
                Segment([] if each is None else next(labels), *span)
                for span, each in zip(spans, found, strict=True)
            ]
            yield ClassifiedFile(source, segments)

    @torch.no_grad()
    def _translated(self, modality: Literal["image", "audio"], embeds: Tensor) -> Tensor:
        translator = self._translator
        if translator is None or modality != _source_modality(translator):
            return embeds
        return translator(embeds.to(translator.device)).float().cpu()


def modality_of(source: str) -> Literal["image", "audio"]:
    """Return the modality of a file by its suffix; what is no audio and no video is an image."""
    from clip2clap.media.audio import SUFFIXES, VIDEO_SUFFIXES

    suffix = Path(source).suffix.lower()
    return "audio" if suffix in SUFFIXES | VIDEO_SUFFIXES else "image"


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
