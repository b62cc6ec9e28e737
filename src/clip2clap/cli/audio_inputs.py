"""Recordings that a user named: read batch by batch, each with the name it gives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clip2clap.cli.options import OptionError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Recording:
    """A sound that was asked for: read, or with the reason why it cannot be."""

    index: int
    """Its place among the inputs, from 0; with the seed it decides its pictures' noise."""

    source: str
    """The file it comes from."""

    audio: "tuple[np.ndarray, int] | None" = None
    """Its waveform, shape (samples,), and sampling rate in Hz; None if it cannot be read."""

    reason: str | None = None
    """Why it cannot be read."""

    @property
    def stem(self) -> str:
        """The name its pictures bear, without the suffix."""
        return Path(self.source).stem


def read_recordings(
    sources: Sequence[str], size: int, *, start: float, seconds: float | None
) -> Iterator[list[Recording]]:
    """Read recordings, `size` at a time; one that cannot be read, or is silent, bears the reason.

    Args:
        sources: Files.
        size: Recordings in a batch.
        start: Where to begin in each, in s.
        seconds: How much of each to read, in s; all if None.

    Yields:
        Batches, in order.
    """
    for first in range(0, len(sources), size):
        yield [
            _read(index, source, start, seconds)
            for index, source in enumerate(sources[first : first + size], first)
        ]


def parse_mix(
    ingredients: Sequence[str],
    option: str = "--mix",
    example: str = "FILE:WEIGHT such as dog.wav:0.7",
) -> list[tuple[str, float]]:
    """Take `FILE:WEIGHT` apart; without a weight it is 1.

    Args:
        ingredients: What was given.
        option: The option, for the message.
        example: What was expected, for the message.

    Raises:
        OptionError: If a weight is no number.
    """
    parsed = []
    for ingredient in ingredients:
        file, colon, weight = ingredient.rpartition(":")
        if not colon or Path(ingredient).expanduser().exists():
            parsed.append((ingredient, 1.0))
            continue
        try:
            parsed.append((file, float(weight)))
        except ValueError as error:
            raise OptionError(f"{option}: expected {example}, got {ingredient!r}.") from error
    return parsed


def _read(index: int, source: str, start: float, seconds: float | None) -> Recording:
    from clip2clap.core.errors import UserError, one_line
    from clip2clap.media.audio import load_audio, require_audible

    try:
        audio = load_audio(source, start=start, seconds=seconds)
        require_audible(audio[0], source)
    except (UserError, OSError) as error:
        return Recording(index, source, reason=one_line(error, limit=None))
    return Recording(index, source, audio=audio)
