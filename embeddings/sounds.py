"""Recordings: from a file of any kind to a mono waveform."""

import io
from pathlib import Path

import numpy as np
import soundfile

from clip2clap.embeddings.errors import UserError

SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"})
"""What is taken from a folder."""


class UnreadableSoundError(UserError):
    """A recording that can't be read; the message names it and says what to do."""


def load_sound(source: str | Path | bytes) -> tuple[np.ndarray, int]:
    """Read a recording as mono.

    Args:
        source: A path or a file's bytes: WAV, FLAC, OGG, MP3, AIFF and what else libsndfile reads.

    Returns:
        The waveform, float32 of shape (samples,), full scale at -1 and 1, channels averaged; and
        its sampling rate in Hz.

    Raises:
        UnreadableSoundError: If it is missing, is not a recording, or holds no samples.
    """
    name = "the recording" if isinstance(source, bytes) else str(source)
    if not isinstance(source, bytes) and not Path(source).expanduser().is_file():
        raise UnreadableSoundError(f"No such file: {name}. Check the path.")
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source).expanduser()
    try:
        samples, sampling_rate = soundfile.read(file, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise UnreadableSoundError(
            f"{name} is not a recording, or not a sound file that can be read. Give a WAV, FLAC, "
            "OGG or MP3."
        ) from error
    if not len(samples):
        raise UnreadableSoundError(f"{name} holds no samples. Fetch or save it again.")
    return samples.mean(axis=1), sampling_rate
