"""Options of a film."""

import math
from dataclasses import dataclass
from fractions import Fraction

from clip2clap.core.errors import UserError


@dataclass(frozen=True)
class FilmOptions:
    """Options of a film: frames, windows of the audio, title.

    Raises:
        UserError: If an option is out of range.

    Examples:
        >>> from clip2clap.inference import FilmOptions
        >>> FilmOptions(fps=12, width=128, height=128).hop_in_s
        0.5
    """

    fps: Fraction | int = 8
    """Frames per second."""

    width: int = 256
    """Width of the frames in pixels, even."""

    height: int = 256
    """Height of the frames in pixels, even."""

    window_in_s: float = 2.0
    """Audio window per embedding, in seconds."""

    hop_in_s: float = 0.5
    """Distance between the starts of two windows, in seconds; at most the window."""

    smoothing_in_s: float = 0.5
    """Standard deviation of the Gaussian that smooths the embeddings over time, in seconds."""

    crossfade_in_s: float = 1.0
    """Length of the cross-fade between two audio files, in seconds."""

    title: str | None = None
    """Text of the title card; None for no card."""

    title_in_s: float = 2.0
    """Length of the title card, in seconds, without audio."""

    start_in_s: float = 0.0
    """Start of the excerpt of each audio file, in seconds."""

    length_in_s: float | None = None
    """Length of the excerpt of each audio file, in seconds; None for all."""

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 120:
            raise UserError(
                f"Expected fps to be above 0, at most 120, got {self.fps}.", param="fps"
            )
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < 2 or value % 2:
                raise UserError(
                    f"Expected {name} of the film to be even, got {value} pixels.", param=name
                )
        if not 0 < self.hop_in_s <= self.window_in_s < math.inf:
            raise UserError(
                "Expected 0 < hop_in_s <= window_in_s, got a window of "
                f"{self.window_in_s} s and a hop of {self.hop_in_s} s.",
                param="hop_in_s",
            )
        for name in ("smoothing_in_s", "crossfade_in_s", "title_in_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise UserError(f"Expected {name} to be 0 or more, got {value}.", param=name)
