"""Writing of MP4 videos from frames and audio."""

from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np

from clip2clap.core.errors import UserError

FILM_RATE = 48_000
"""Sampling rate of a video's audio, in Hz."""

_CHANNELS = "stereo"
# Nearly without visible loss, at a speed that keeps up with any decoder.
_VIDEO_OPTIONS = {"crf": "18", "preset": "fast", "x264-params": "colormatrix=smpte170m"}
_AUDIO_BITS = 192_000


class FilmWriter:
    """Writer of an MP4 with H.264 (yuv420p) video and AAC audio, playable while it downloads.

    Memory does not grow with the length. A context manager: the file is complete once the block
    has ended without an error.

    Args:
        path: File to write.
        fps: Frames per second.
        width: In pixels, even.
        height: In pixels, even.

    Raises:
        UserError: If the size is odd or empty, or fps is not above 0.
    """

    def __init__(self, path: Path, *, fps: Fraction | int, width: int, height: int):
        if width < 2 or height < 2 or width % 2 or height % 2:
            raise UserError(
                f"Expected an even width and height, as yuv420p needs, got {width} x {height}."
            )
        if fps <= 0:
            raise UserError(f"Expected fps above 0, got {fps}.", param="fps")
        import av

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
        """Return the writer."""
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """Flush the encoders and write the index."""
        if error is None:
            for stream in (self._video, self._audio):
                self._container.mux(stream.encode(None))
        self._container.close()

    def add_frame(self, image: np.ndarray) -> None:
        """Write the next frame, RGB, shape (height, width, 3), uint8."""
        if image.shape != self.shape or image.dtype != np.uint8:
            raise UserError(
                f"Expected frames of shape {self.shape}, uint8, got {image.shape}, {image.dtype}."
            )
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = self._frames, 1 / self._video.codec_context.framerate
        self._frames += 1
        self._container.mux(self._video.encode(frame))

    def add_sound(self, samples: np.ndarray) -> None:
        """Write the next block of audio, shape (2, samples), in [-1, 1], at `FILM_RATE`."""
        if not samples.shape[1]:
            return
        block = np.ascontiguousarray(samples, dtype=np.float32)
        frame = self._av.AudioFrame.from_ndarray(block, format="fltp", layout=_CHANNELS)
        frame.sample_rate, frame.pts = FILM_RATE, self._samples
        frame.time_base = Fraction(1, FILM_RATE)
        self._samples += samples.shape[1]
        self._container.mux(self._audio.encode(frame))
