"""One MP4 from frames and sound, written as they come."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from clip2clap.core.errors import UserError

FILM_RATE = 48_000
"""Samples a second of a film's sound, in Hz."""

_CHANNELS = "stereo"
# Nearly without visible loss, at a speed that keeps up with any decoder.
_VIDEO_OPTIONS = {"crf": "18", "preset": "fast", "x264-params": "colormatrix=smpte170m"}
_AUDIO_BITS = 192_000


class FilmWriter:
    """Writes H.264 (yuv420p) and AAC into an MP4 that plays while it loads.

    Nothing is kept but what the encoders look ahead at: memory does not grow with the film.
    Used as a context manager; the file is complete once the block has ended well.

    Args:
        path: The file to write.
        fps: Frames a second.
        width: In pixels, even.
        height: In pixels, even.

    Raises:
        UserError: If the size is odd or empty, or there are no frames a second.
    """

    def __init__(self, path: Path, *, fps: Fraction | int, width: int, height: int):
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise UserError(
                f"Expected a film of even width and height, as yuv420p needs, got {width} x "
                f"{height}."
            )
        if fps <= 0:
            raise UserError(f"Expected frames a second above 0, got {fps}.")
        import av  # takes its time, and only films need it

        self.shape = (height, width, 3)
        self._av = av
        self._container = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._video: Any = self._container.add_stream(
            "libx264", rate=Fraction(fps), options=_VIDEO_OPTIONS
        )
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._audio: Any = self._container.add_stream("aac", rate=FILM_RATE, layout=_CHANNELS)
        self._audio.bit_rate = _AUDIO_BITS
        self._frames = self._samples = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what the encoders still hold, and the index."""
        if error is None:
            for stream in (self._video, self._audio):
                self._container.mux(stream.encode(None))
        self._container.close()

    def add_frame(self, picture: np.ndarray) -> None:
        """Write the next frame.

        Args:
            picture: RGB, shape (height, width, 3), uint8.

        Raises:
            UserError: If its shape or dtype is another than the film's.
        """
        if picture.shape != self.shape or picture.dtype != np.uint8:
            raise UserError(
                f"Expected frames of shape {self.shape}, uint8, got {picture.shape}, "
                f"{picture.dtype}."
            )
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._frames, 1 / self._video.codec_context.framerate
        self._frames += 1
        self._container.mux(self._video.encode(frame))

    def add_sound(self, samples: np.ndarray) -> None:
        """Write the next block of sound.

        Args:
            samples: Shape (2, samples), float32, full scale at -1 and 1, at `FILM_RATE`.
        """
        if not samples.shape[1]:
            return
        block = np.ascontiguousarray(samples, dtype=np.float32)
        frame = self._av.AudioFrame.from_ndarray(block, format="fltp", layout=_CHANNELS)
        frame.sample_rate, frame.pts = FILM_RATE, self._samples
        frame.time_base = Fraction(1, FILM_RATE)
        self._samples += samples.shape[1]
        self._container.mux(self._audio.encode(frame))
