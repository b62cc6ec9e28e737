"""Files into vectors, some at a time."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.evaluation.classifiers import Sound
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

SOUNDS_AT_ONCE = 16
PICTURES_AT_ONCE = 64


def parts(values: Sequence[Any], size: int) -> Iterator[Any]:
    """Give a sequence in parts of some size, the last one what is left."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def see_files(clip: ClipEncoder, files: Sequence[Path]) -> Tensor:
    """Embed pictures, at least one; shape (n, d), unit norm."""
    seen = parts(files, PICTURES_AT_ONCE)
    return torch.cat([clip.encode_image([load_image(file) for file in part]) for part in seen])


def hear_files(
    clap: ClapEncoder, files: Sequence[Path], *, load: Callable[[Path], Sound] = load_audio
) -> Tensor:
    """Embed sounds, at least one; shape (n, d), unit norm.

    Args:
        clap: Hears them.
        files: The sounds.
        load: Reads one of them.
    """
    heard = parts(files, SOUNDS_AT_ONCE)
    return torch.cat([clap.encode_audio([load(file) for file in part]) for part in heard])
