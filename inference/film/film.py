"""A film of pictures that follows a sound."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clip2clap.core.concurrency import batched, read_ahead
from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.core.math import unit_norm
from clip2clap.inference.painting.paint import (
    Painting,
    PaintingOptions,
    PixelEncoder,
    Surface,
    Target,
)
from clip2clap.media.audio import SilentAudioError, is_silent, stream_audio
from clip2clap.media.video import FILM_RATE, FilmWriter

Embed = Callable[[Sequence[np.ndarray]], Tensor]
"""From mono waveforms at `FILM_RATE` to CLIP vectors, shape (n, d), unit norm, on the CPU."""

MakeFrames = Callable[[Tensor], np.ndarray]
"""From the vectors of the next frames, shape (n, d), to the frames: RGB, uint8, shape
(n, height, width, 3). Called in order, a batch at a time."""

_BATCH = 8
# Beyond three standard deviations a Gaussian adds nothing that can be seen.
_KERNEL_REACH = 3
# A film's first picture has no picture to go on from.
_FIRST_FRAME_ITERATIONS = 8
# Below this angle in radians two vectors are one, and slerp divides by nothing.
_SAME_ANGLE = 1e-4


@dataclass(frozen=True)
class FilmOptions:
    """What a film is like, whatever paints its frames."""

    fps: Fraction | int = 8
    """Frames a second."""

    width: int = 256
    """In pixels, even; frames are scaled to it."""

    height: int = 256
    """In pixels, even; frames are scaled to it."""

    window_in_s: float = 2.0
    """How much sound a vector is heard from."""

    hop_in_s: float = 0.5
    """How far apart the windows begin; less than the window, they overlap."""

    smoothing_in_s: float = 0.5
    """Standard deviation of the Gaussian that smooths the path; 0 leaves it as it is."""

    crossfade_in_s: float = 1.0
    """How long one sound goes over into the next."""

    title: str | None = None
    """What is written on a card before the film, if anything."""

    title_in_s: float = 2.0
    """How long the card is shown, in silence."""

    start_in_s: float = 0.0
    """Where to begin in each sound."""

    length_in_s: float | None = None
    """How much of each sound to take; all if None."""

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 120:
            raise UserError(f"Expected 1 to 120 frames a second, got {self.fps}.")
        for name in ("width", "height"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise UserError(
                    f"Expected an even {name} for the film, got {getattr(self, name)} pixels."
                )
        if not 0 < self.hop_in_s <= self.window_in_s < math.inf:
            raise UserError(
                f"Expected windows of above 0 s that begin at most a window apart, got windows of "
                f"{self.window_in_s} s every {self.hop_in_s} s."
            )
        for name in ("smoothing_in_s", "crossfade_in_s", "title_in_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"Expected {name} to be 0 or more, got {getattr(self, name)}.")


@dataclass(frozen=True)
class Film:
    """What `make_film` made."""

    path: Path
    """The MP4."""

    frames: int
    """How many frames it has, the title card's among them."""

    seconds: float
    """How long its sound is, the title card's silence included."""


def make_film(
    path: str | Path,
    sounds: Sequence[str | Path | bytes],
    *,
    embed: Embed,
    make_frames: MakeFrames,
    options: FilmOptions,
    on_frames: Callable[[int], None] | None = None,
) -> Film:
    """Make a film of one sound, or of several one after another.

    Hearing, painting and film encoding each have a thread and hand batches over; nothing else is
    kept, so that memory does not grow with the film.

    Args:
        path: The MP4 to write, whole or not at all; its folder must exist.
        sounds: Recordings, as `load_audio` takes them, of any length.
        embed: Hears a window of sound.
        make_frames: Paints frames.
        options: What the film is like.
        on_frames: Called with the number of frames, each time some more are written.

    Returns:
        What was made.

    Raises:
        UserError: If a sound can't be read, or all is silent.
    """
    if not sounds:
        raise UserError("There are no sounds to make a film of.")
    path = Path(path)
    blocks = _Blocks(_with_title(film_sound(sounds, options), options))
    vectors = read_ahead(_batches(frame_vectors(film_sound(sounds, options), embed, options)))
    with (
        closing(read_ahead(_pictures(vectors, make_frames))) as pictures,
        replacing(path) as partial,
        FilmWriter(partial, fps=options.fps, width=options.width, height=options.height) as writer,
    ):
        frames = 0
        for batch in _title_batches(options):
            frames = _write(writer, blocks, batch, frames, options)
        for batch in pictures:
            frames = _write(writer, blocks, batch, frames, options)
            if on_frames is not None:
                on_frames(frames)
        writer.add_sound(blocks.rest())
    return Film(path, frames, blocks.given / FILM_RATE)


def film_sound(sounds: Sequence[str | Path | bytes], options: FilmOptions) -> Iterator[np.ndarray]:
    """Read sounds one after another, each faded over into the next at equal power.

    Args:
        sounds: Recordings.
        options: Says how long the cross-fade is, and what part of each is taken. A sound shorter
            than the cross-fade is faded over all its length.

    Yields:
        Blocks of shape (2, samples), float32, at `FILM_RATE`.

    Raises:
        UnreadableAudioError: If one can't be read.
    """
    fade = round(options.crossfade_in_s * FILM_RATE)
    held = np.zeros((2, 0), np.float32)
    for index, source in enumerate(sounds):
        keep = fade if index < len(sounds) - 1 else 0
        waiting = held if index else None
        held = np.zeros((2, 0), np.float32)
        for block in _faded_in(
            stream_audio(
                source,
                sampling_rate=FILM_RATE,
                start=options.start_in_s,
                seconds=options.length_in_s,
            ),
            waiting,
        ):
            held = np.concatenate([held, block], axis=1)
            if held.shape[1] > keep:
                ready = held.shape[1] - keep
                yield held[:, :ready]
                held = held[:, ready:]
    if held.shape[1]:
        yield held


def frame_vectors(
    blocks: Iterable[np.ndarray], embed: Embed, options: FilmOptions
) -> Iterator[Tensor]:
    """Give each frame's vector: a path on the sphere through the vectors of the sound's windows.

    A window in which there is nothing to hear keeps the vector before it. Between the middles of
    two windows the path is the great circle's arc (slerp).

    Args:
        blocks: The sound, as `film_sound` gives it.
        embed: Hears a window.
        options: Windows, smoothing and frames a second.

    Yields:
        CLIP vectors, shape (d,), unit norm: one for every frame that begins before the sound ends.

    Raises:
        SilentAudioError: If there is nothing to hear in any window.
    """
    windows = _Windows(blocks, options)
    keys = _smoothed(_unbroken(_heard(windows, embed)), options)
    period = 1 / Fraction(options.fps)
    frame = 0
    before: tuple[float, Tensor] | None = None
    for time, vector in keys:
        # A frame shows the sound at its middle.
        while (middle := float((frame + Fraction(1, 2)) * period)) < time:
            yield vector if before is None else _between(before, (time, vector), middle)
            frame += 1
        before = (time, vector)
    if before is None:
        raise SilentAudioError("There is nothing to hear in the sounds. Give others.")
    while frame == 0 or frame * period < Fraction(windows.samples, FILM_RATE):
        yield before[1]
        frame += 1


def slerp(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Go along the great circle from one unit vector to another.

    Shoemake (1985), https://doi.org/10.1145/325165.325242.

    Args:
        start: Shape (d,), unit norm.
        end: The same, not opposite to `start`.
        share: How far, from 0 to 1.

    Returns:
        Shape (d,), unit norm.
    """
    angle = torch.atan2((start - end).norm(), (start + end).norm()) * 2
    if angle < _SAME_ANGLE:
        return unit_norm(torch.lerp(start, end, share))
    return unit_norm(((1 - share) * angle).sin() * start + (share * angle).sin() * end)


class DecodedFrames:
    """Frames by a decoder whose noise stands still or walks slowly.

    Noise that walks goes around a circle in the plane of two Gaussian draws, where each point is
    again such a draw.

    Args:
        pipeline: An `AudioToImagePipeline`.
        options: The film's size and frames a second.
        seed: Where the noise comes from.
        walk_in_s: How long the noise takes for one round; 0 lets it stand still.
        calls: What else the pipeline is called with.

    Raises:
        UserError: If a round takes less than no time.
    """

    def __init__(
        self,
        pipeline: Any,
        options: FilmOptions,
        *,
        seed: int = 0,
        walk_in_s: float = 0.0,
        calls: dict[str, Any] | None = None,
    ):
        if not 0 <= walk_in_s < math.inf:
            raise UserError(f"Expected a round of the noise to take 0 s or more, got {walk_in_s}.")
        self.pipeline, self.options, self.calls = pipeline, options, dict(calls or {})
        size = pipeline.decoder.size
        height, width = (self.calls.get(name) or size for name in ("height", "width"))
        generator = torch.Generator().manual_seed(seed)
        shape = (2, *pipeline.decoder.latent_shape(height, width))
        self._noise = torch.randn(shape, generator=generator)
        self._turn = 2 * math.pi / (walk_in_s * options.fps) if walk_in_s else 0.0
        self._made = 0

    def __call__(self, vectors: Tensor) -> np.ndarray:
        """Paint the next frames, one for each vector of shape (n, d)."""
        angles = self._turn * torch.arange(self._made, self._made + len(vectors))
        self._made += len(vectors)
        angles = angles.view(-1, 1, 1, 1)
        latents = angles.cos() * self._noise[0] + angles.sin() * self._noise[1]
        # As latents they are not compared with the vectors, which would take longer than painting.
        painted = self.pipeline(
            image_embeds=vectors,
            latents=latents,
            batch_size=len(vectors),
            output_type="latent",
            **self.calls,
        ).images
        with torch.no_grad():
            pixels = self.pipeline.decoder.to_pixels(painted.to(self.pipeline.device))
        return scaled_frames(pixels, self.options)


class PaintedFrames:
    """Frames painted towards their vectors, each going on from the last.

    Args:
        surface: What is painted on, such as a `Canvas`.
        clip: Looks at the pictures.
        options: The film's size.
        painting: How to paint; its iterations are a frame's, and the first frame takes more.
        latent: Where the first frame starts, shape (1, channels, rows, columns).
        seed: Where the cut-outs come from.
    """

    def __init__(
        self,
        surface: Surface,
        clip: PixelEncoder,
        options: FilmOptions,
        *,
        painting: PaintingOptions,
        latent: Tensor,
        seed: int = 0,
    ):
        self.surface, self.clip, self.options, self.painting = surface, clip, options, painting
        self._latent, self._started = latent, False
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, vectors: Tensor) -> np.ndarray:
        """Paint the next frames, one for each vector of shape (n, d)."""
        return np.concatenate([self._paint(vector) for vector in vectors])

    def _paint(self, vector: Tensor) -> np.ndarray:
        painting = Painting(
            self.surface,
            self.clip,
            [Target(vector)],
            latent=self._latent,
            options=self.painting,
            generator=self._generator,
        )
        more = 1 if self._started else _FIRST_FRAME_ITERATIONS
        for _ in range(more * self.painting.iterations):
            painting.step()
        self._latent, self._started = painting.latent, True
        with torch.no_grad():
            return scaled_frames(self.surface.pixels(self._latent), self.options)


def scaled_frames(pixels: Tensor, options: FilmOptions) -> np.ndarray:
    """Scale pictures to a film's size.

    Args:
        pixels: Shape (n, 3, h, w), in [0, 1].
        options: The film's size; another shape than the pictures' is filled about the middle.

    Returns:
        RGB frames, shape (n, height, width, 3), uint8.
    """
    height, width = options.height, options.width
    ratio = max(height / pixels.shape[-2], width / pixels.shape[-1])
    rows, columns = (max(1, math.ceil(side * ratio - 1e-6)) for side in pixels.shape[-2:])
    if (rows, columns) != tuple(pixels.shape[-2:]):
        pixels = torch.nn.functional.interpolate(
            pixels.float(), (rows, columns), mode="bicubic", antialias=True
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    pixels = pixels[..., top : top + height, left : left + width]
    values = (pixels.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return values.permute(0, 2, 3, 1).contiguous().numpy()


def title_card(words: str, width: int, height: int) -> np.ndarray:
    """Draw words in white on black, as large as fits.

    Args:
        words: What to write; line ends are kept.
        width: In pixels.
        height: In pixels.

    Returns:
        Shape (height, width, 3), uint8.
    """
    card = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(card)
    size = height // 4
    while size > 6:
        left, top, right, bottom = draw.multiline_textbbox(
            (0, 0), words, font=ImageFont.load_default(size), align="center"
        )
        if right - left <= 0.9 * width and bottom - top <= 0.9 * height:
            break
        size = int(size * 0.9)
    draw.multiline_text(
        (width / 2, height / 2),
        words,
        font=ImageFont.load_default(size),
        fill="white",
        anchor="mm",
        align="center",
    )
    return np.asarray(card)


class _Blocks:
    """A stream of sound blocks from which any number of samples can be taken."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self.given = 0
        self._source = blocks
        self._held = np.zeros((2, 0), np.float32)

    def until(self, position: int) -> np.ndarray:
        """Take the samples up to a position, or to the end if that comes first."""
        parts = [self._held]
        have = self._held.shape[1]
        while self.given + have < position:
            block = next(self._source, None)
            if block is None:
                break
            parts.append(block)
            have += block.shape[1]
        held = np.concatenate(parts, axis=1)
        taken = held[:, : position - self.given]
        self._held = held[:, taken.shape[1] :]
        self.given += taken.shape[1]
        return taken

    def rest(self) -> np.ndarray:
        """Take what is left, less than a frame's."""
        parts = [self._held, *self._source]
        rest = np.concatenate(parts, axis=1)
        self.given += rest.shape[1]
        return rest


class _Windows:
    """The overlapping windows of a sound; once they are through, how many samples it has."""

    def __init__(self, blocks: Iterable[np.ndarray], options: FilmOptions):
        self.samples = 0
        self._blocks = blocks
        self._length = round(options.window_in_s * FILM_RATE)
        self._hop = max(1, round(options.hop_in_s * FILM_RATE))

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Give each window's middle in s, and its mono waveform.

        A last window ends with the sound; a sound shorter than a window is one.
        """
        held, start, end = np.zeros(0, np.float32), 0, 0
        for block in self._blocks:
            held = np.concatenate([held, block.mean(axis=0)])
            self.samples += block.shape[1]
            while len(held) >= self._length:
                end = start + self._length
                yield (start + end) / 2 / FILM_RATE, held[: self._length]
                # What comes before is kept for as long as the last window may need it.
                held, start = held[self._hop :], start + self._hop
        if end < self.samples:
            last = held[-self._length :]
            yield (self.samples - len(last) / 2) / FILM_RATE, last


def _faded_in(blocks: Iterator[np.ndarray], waiting: np.ndarray | None) -> Iterator[np.ndarray]:
    """Mix the end of the sound before, which waits, into the beginning of this one."""
    if waiting is None or not waiting.shape[1]:
        yield from blocks
        return
    head = np.zeros((2, 0), np.float32)
    while head.shape[1] < waiting.shape[1]:
        block = next(blocks, None)
        if block is None:
            break
        head = np.concatenate([head, block], axis=1)
    overlap = min(head.shape[1], waiting.shape[1])
    angle = (np.arange(overlap, dtype=np.float32) + 0.5) / max(1, overlap) * np.pi / 2
    before = waiting.shape[1] - overlap
    yield waiting[:, :before]
    yield waiting[:, before:] * np.cos(angle) + head[:, :overlap] * np.sin(angle)
    yield head[:, overlap:]
    yield from blocks


def _heard(
    windows: Iterable[tuple[float, np.ndarray]], embed: Embed
) -> Iterator[tuple[float, Tensor | None]]:
    """Embed windows batch by batch; silent ones have no vector."""
    for batch in batched(windows, _BATCH):
        audible = [waveform for _, waveform in batch if not is_silent(waveform)]
        with torch.no_grad():
            vectors = iter(unit_norm(embed(audible)).cpu() if audible else [])
        for time, waveform in batch:
            yield time, None if is_silent(waveform) else next(vectors)


def _unbroken(keys: Iterable[tuple[float, Tensor | None]]) -> Iterator[tuple[float, Tensor]]:
    """Give silent windows the vector before them, or the first of all."""
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
    """Replace each vector by a Gaussian mean of its neighbours, scaled back to the sphere."""
    spread = options.smoothing_in_s
    reach = math.ceil(_KERNEL_REACH * spread / options.hop_in_s)
    near: deque[tuple[float, Tensor]] = deque()
    place = 0
    ended = False
    while True:
        while not ended and len(near) <= place + reach:
            key = next(keys, None)
            if key is None:
                ended = True
            else:
                near.append(key)
        if place >= len(near):
            return
        time, vector = near[place]
        if spread:
            times = torch.tensor([moment for moment, _ in near])
            weights = (-0.5 * ((times - time) / spread).square()).exp()
            vector = unit_norm(weights @ torch.stack([each for _, each in near]))
        yield time, vector
        place += 1
        if place > reach:
            near.popleft()
            place -= 1


def _between(before: tuple[float, Tensor], after: tuple[float, Tensor], moment: float) -> Tensor:
    share = (moment - before[0]) / (after[0] - before[0])
    return slerp(before[1], after[1], share)


def _pictures(vectors: Generator[Tensor], make_frames: MakeFrames) -> Iterator[np.ndarray]:
    with closing(vectors):
        for batch in vectors:
            yield make_frames(batch)


def _batches(vectors: Iterable[Tensor]) -> Iterator[Tensor]:
    return (torch.stack(batch) for batch in batched(vectors, _BATCH))


def _title_frames(options: FilmOptions) -> int:
    return round(options.title_in_s * options.fps) if options.title else 0


def _title_batches(options: FilmOptions) -> Iterator[np.ndarray]:
    """Give the title card's frames, if there are any."""
    count = _title_frames(options)
    if count:
        assert options.title is not None
        card = title_card(options.title, options.width, options.height)
        yield from (card[None] for _ in range(count))


def _with_title(blocks: Iterator[np.ndarray], options: FilmOptions) -> Iterator[np.ndarray]:
    """Let the sound begin when the title card is gone."""
    yield np.zeros((2, round(_title_frames(options) / options.fps * FILM_RATE)), np.float32)
    yield from blocks


def _write(
    writer: FilmWriter, blocks: _Blocks, batch: np.ndarray, frames: int, options: FilmOptions
) -> int:
    """Write frames, each after the sound that goes with it; gives how many there are now."""
    for picture in batch:
        frames += 1
        writer.add_sound(blocks.until(round(frames / options.fps * FILM_RATE)))
        writer.add_frame(picture)
    return frames
