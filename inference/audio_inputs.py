"""Recordings as the pipeline takes them: files, bytes or waveforms, or a part of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.inference.inputs import as_list
from clip2clap.media.audio import load_audio, require_audible

AudioSource = str | Path | bytes | tuple[NDArray[np.floating] | Tensor, int]
"""A file, a file's bytes, or a mono waveform of shape (samples,) with its sampling rate in Hz."""


def audio_list(audios: AudioSource | Sequence[AudioSource]) -> list[AudioSource]:
    """Make one recording a list of one."""
    if isinstance(audios, tuple) and len(audios) == 2 and isinstance(audios[1], int | np.integer):
        return [cast(AudioSource, audios)]
    return cast(list[AudioSource], as_list(audios))


def read_recordings(
    sources: Sequence[AudioSource], start: float, seconds: float | None
) -> list[tuple[Any, int]]:
    """Read recordings, or the part of each that is wanted.

    Args:
        sources: What to read.
        start: Where to begin in each, in s.
        seconds: How much of each to read, in s; all if None.

    Returns:
        Waveforms, shape (samples,), with their sampling rates in Hz.

    Raises:
        UserError: If one can't be read or is silent; among several it is named.
    """
    read = []
    for place, source in enumerate(sources, 1):
        try:
            read.append(_read(source, start, seconds))
        except UserError as error:
            if len(sources) == 1:
                raise
            raise type(error)(f"Recording {place} of {len(sources)}: {error}") from error
    return read


def _read(source: AudioSource, start: float, seconds: float | None) -> tuple[Any, int]:
    """Read a recording, or the part of it that is wanted."""
    if isinstance(source, tuple):
        samples, rate = source
        last = None if seconds is None else round((start + seconds) * rate)
        whole, name = np.asarray(samples), "the recording"
        waveform = whole[round(start * rate) : last]
        if len(whole) and not len(waveform):
            raise UserError(
                f"{name} lasts {len(whole) / rate:.1f} s, and is to be heard from {start:g} s on."
            )
    else:
        waveform, rate = load_audio(source, start=start, seconds=seconds)
        name = "the recording" if isinstance(source, bytes) else str(source)
    if waveform.ndim == 1 and len(waveform):
        require_audible(waveform, name)
    return waveform, rate
