"""Options of a film."""

import math
from dataclasses import dataclass
from fractions import Fraction

from clip2clap.core.errors import expect


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
        expect(0 < self.fps <= 120, "fps", "above 0, at most 120", self.fps)
        for name in ("width", "height"):
            value = getattr(self, name)
            expect(value >= 2 and value % 2 == 0, name, "an even number of pixels", value)
        expect(
            0 < self.hop_in_s <= self.window_in_s < math.inf,
            "hop_in_s",
            f"above 0 and at most the window of {self.window_in_s} s",
            self.hop_in_s,
        )
        for name in ("smoothing_in_s", "crossfade_in_s", "title_in_s"):
            value = getattr(self, name)
            expect(0 <= value < math.inf, name, "0 or more", value)
