"""Encoding of files in batches."""

from collections.abc import Callable, Sequence
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

AUDIO_BATCH_SIZE = 16
IMAGE_BATCH_SIZE = 64


def encode_files(
    encoder: ClipEncoder | ClapEncoder,
    files: Sequence[Path],
    *,
    load: Callable[[Path], Any] | None = None,
) -> Tensor:
    """Encode image files with a CLIP, or audio files with a CLAP.

    Args:
        encoder: Encoder.
        files: At least one.
        load: Reader of one file; `load_image` or `load_audio` if None.

    Returns:
        Embeddings, shape (n, d), float32, unit norm.
    """
    if isinstance(encoder, ClapEncoder):
        read_audio = load or load_audio
        batches = batched(files, AUDIO_BATCH_SIZE)
        return torch.cat(
            [encoder.encode_audio([read_audio(file) for file in one]) for one in batches]
        )
    read_image = load or load_image
    batches = batched(files, IMAGE_BATCH_SIZE)
    return torch.cat([encoder.encode_image([read_image(file) for file in one]) for one in batches])


@torch.no_grad()
def translate(translator: Translator, embeds: Tensor) -> Tensor:
    """Translate embeddings on the translator's device; shape (n, d), float32, on the CPU."""
    return translator(embeds.to(translator.device)).float().cpu()
