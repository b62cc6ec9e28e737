"""Path of embeddings through the windows of an audio stream, one embedding per frame."""

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.math import unit_norm
from clip2clap.inference.film.audio import AudioWindows, WholeFiles, film_audio
from clip2clap.inference.film.options import FilmOptions
from clip2clap.media.audio import SilentAudioError, is_silent
from clip2clap.media.video import FILM_RATE

Embed = Callable[[Sequence[np.ndarray]], Tensor]
"""Map from mono waveforms at `FILM_RATE` to CLIP embeddings (n, d), unit norm, on the CPU."""

BATCH_SIZE = 8
"""Number of windows, and of frames, processed at once."""

# A Gaussian has no visible weight beyond three standard deviations.
_KERNEL_REACH = 3
# Below this angle in radians two embeddings are equal, and slerp would divide by zero.
_SAME_ANGLE = 1e-4


def frame_embeds(
    blocks: Iterable[np.ndarray], embed: Embed, options: FilmOptions
) -> Iterator[Tensor]:
    """Compute each frame's embedding: a path on the sphere through those of the audio's windows.

    A silent window repeats the previous embedding. Between the centers of two windows the path is
    the great circle's arc (slerp).

    Yields:
        CLIP embeddings, shape (d,), unit norm: one for every frame that begins before the audio
        ends.

    Raises:
        SilentAudioError: If all windows are silent.
    """
    windows = AudioWindows(blocks, options)
    yield from _path(_encoded(windows, embed), windows, options)


def whole_embeds(
    audios: Sequence[str | Path | bytes], embed: Embed, options: FilmOptions
) -> Iterator[Tensor]:
    """Compute each frame's embedding: that of the whole audio file that plays.

    For speech, whose parts do not mean what the sentence means. Between files the path is smoothed
    as in `frame_embeds`.

    Yields:
        CLIP embeddings, shape (d,), unit norm, one for every frame.

    Raises:
        SilentAudioError: If all files are silent.
    """
    files = WholeFiles(audios, options)
    yield from _path(_whole_keys(files, embed, options), files, options)


def embeds_of(
    audios: Sequence[str | Path | bytes], embed: Embed, options: FilmOptions, *, whole: bool
) -> Iterator[Tensor]:
    """Compute each frame's embedding from audio files, as `whole_embeds` or `frame_embeds` do."""
    if whole:
        return whole_embeds(audios, embed, options)
    return frame_embeds(film_audio(audios, options), embed, options)


def _whole_keys(
    files: WholeFiles, embed: Embed, options: FilmOptions
) -> Iterator[tuple[float, Tensor | None]]:
    last = -math.inf
    for start, end, waveform in files:
        vector = None
        if not is_silent(waveform):
            with torch.no_grad():
                vector = unit_norm(embed([waveform])).cpu()[0]
        count = max(1, round((end - start) / options.hop_in_s))
        times = (start + (place + 0.5) * (end - start) / count for place in range(count))
        for time in times:
            # Two files share the cross-fade between them.
            if time > last:
                yield time, vector
                last = time


def _path(
    found: Iterator[tuple[float, Tensor | None]],
    audio: AudioWindows | WholeFiles,
    options: FilmOptions,
) -> Iterator[Tensor]:
    """Yield the embedding of every frame on the path through embeddings at moments in s."""
    keys = _smoothed(_filled(found), options)
    period = 1 / Fraction(options.fps)
    frame = 0
    before: tuple[float, Tensor] | None = None
    for time, vector in keys:
        # A frame shows the audio at its center.
        while (center := float((frame + Fraction(1, 2)) * period)) < time:
            if before is None:
                yield vector
            else:
                yield slerp(before[1], vector, (center - before[0]) / (time - before[0]))
            frame += 1
        before = (time, vector)
    if before is None:
        raise SilentAudioError("The audio is silent. Give another file.")
    while frame == 0 or frame * period < Fraction(audio.samples, FILM_RATE):
        yield before[1]
        frame += 1


def slerp(start: Tensor, end: Tensor, fraction: float) -> Tensor:
    """Interpolate between two unit vectors (d,), not opposite, along the great circle.

    Shoemake (1985), https://doi.org/10.1145/325165.325242.
    """
    angle = torch.atan2((start - end).norm(), (start + end).norm()) * 2
    if angle < _SAME_ANGLE:
        return unit_norm(torch.lerp(start, end, fraction))
    return unit_norm(((1 - fraction) * angle).sin() * start + (fraction * angle).sin() * end)


def _encoded(
    windows: Iterable[tuple[float, np.ndarray]], embed: Embed
) -> Iterator[tuple[float, Tensor | None]]:
    """Encode windows batch by batch; silent ones have no embedding."""
    for batch in batched(windows, BATCH_SIZE):
        silent = [is_silent(waveform) for _, waveform in batch]
        audible = [each for (_, each), none in zip(batch, silent, strict=True) if not none]
        with torch.no_grad():
            vectors = iter(unit_norm(embed(audible)).cpu() if audible else [])
        for (time, _), none in zip(batch, silent, strict=True):
            yield time, None if none else next(vectors)


def _filled(keys: Iterable[tuple[float, Tensor | None]]) -> Iterator[tuple[float, Tensor]]:
    """Fill silent windows with the embedding before them, or with the first of all."""
    last: Tensor | None = None
    early: list[float] = []
    for time, vector in keys:
        last = last if vector is None else vector
        if last is None:
            early.append(time)
            continue
        yield from ((moment, last) for moment in early)
        early = []
        yield time, last


def _smoothed(
    keys: Iterator[tuple[float, Tensor]], options: FilmOptions
) -> Iterator[tuple[float, Tensor]]:
    """Replace each embedding by a Gaussian mean of its neighbors, scaled to unit norm."""
    spread = options.smoothing_in_s
    reach = math.ceil(_KERNEL_REACH * spread / options.hop_in_s)
    near: deque[tuple[float, Tensor]] = deque()
    place = 0
    while True:
        near.extend(itertools.islice(keys, max(0, place + reach + 1 - len(near))))
        if place >= len(near):
            return
        time, vector = near[place]
        if spread:
            times = torch.tensor([moment for moment, _ in near], dtype=torch.float32)
            weights = (-0.5 * ((times - time) / spread).square()).exp()
            vector = unit_norm(weights @ torch.stack([each for _, each in near]))
        yield time, vector
        place += 1
        if place > reach:
            near.popleft()
            place -= 1
