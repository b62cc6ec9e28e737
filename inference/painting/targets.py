"""Targets of paintings from audio: the whole, and its parts with less weight."""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from clip2clap.inference.painting.paint import Target, split_waveform
from clip2clap.media.audio import is_silent

_PART_WEIGHT = 0.3


def audio_targets(
    waveform: np.ndarray,
    sampling_rate: int,
    encode: Callable[[Sequence[tuple[np.ndarray, int]]], Tensor],
    *,
    name: str,
    weight: float = 1.0,
    parts: int = 1,
) -> list[Target]:
    """Return targets from audio: the whole, and parts beside it that are not silent.

    Args:
        waveform: Waveform, shape (samples,), not silent.
        sampling_rate: In Hz.
        encode: Encodes waveforms with their rates into CLIP's space, shape (n, d), unit norm.
        name: Name of the whole; parts have a number behind it.
        weight: Weight of the whole; a part's is less.
        parts: Number of parts; 1 for the whole alone.

    Raises:
        UserError: If it has fewer samples than parts.
    """
    pieces = {name: waveform}
    if parts > 1:
        cut = enumerate(split_waveform(waveform, parts), 1)
        pieces |= {f"{name} ({number}/{parts})": piece for number, piece in cut}
    audible = {each: piece for each, piece in pieces.items() if not is_silent(piece)}
    embeds = encode([(piece, sampling_rate) for piece in audible.values()])
    return [
        Target(embed, weight if each == name else weight * _PART_WEIGHT, each)
        for each, embed in zip(audible, embeds, strict=True)
    ]
