"""Encoding of files in batches."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image
from clip2clap.translator.base import Translator


def encode_batches(
    encoder: ClipEncoder | ClapEncoder,
    files: Sequence[Path],
    load: Callable[[Path], Any] | None = None,
) -> Iterator[tuple[list[Any], Tensor]]:
    """Yield images for a CLIP, or audio for a CLAP, batch by batch with their embeddings.

    `load` reads one file, by default as `load_image` or `load_audio` does.
    """
    if isinstance(encoder, ClapEncoder):
        size, load, encode = 16, load or load_audio, encoder.encode_audio
    else:
        size, load, encode = 64, load or load_image, encoder.encode_image
    for batch in batched(files, size):
        inputs = [load(file) for file in batch]
        yield inputs, encode(inputs)


def encode_files(
    encoder: ClipEncoder | ClapEncoder,
    files: Sequence[Path],
    load: Callable[[Path], Any] | None = None,
) -> Tensor:
    """Encode at least one file as `encode_batches` does, shape (n, d), float32, unit norm."""
    return torch.cat([embeds for _, embeds in encode_batches(encoder, files, load)])


@torch.no_grad()
def translate(translator: Translator, embeds: Tensor) -> Tensor:
    """Translate embeddings on the translator's device; shape (n, d), float32, on the CPU."""
    return translator(embeds.to(translator.device)).float().cpu()
