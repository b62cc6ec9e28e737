"""Builders of the verbs' tests."""

from pathlib import Path

import torch

from clip2clap.embeddings.encoders.base import read_space
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance


def write_translator(folder: Path, clip: Path, generator: Path) -> Path:
    clip_space = read_space(clip, family="clip", modality="image")
    clap_space = read_space(generator, family="clap", modality="text")
    torch.manual_seed(0)
    translator = MLPTranslator(
        clip_space.dim,
        clap_space.dim,
        hidden_size=16,
        provenance=Provenance(clip_space, clap_space),
    )
    translator.save_pretrained(folder)
    return folder


def sounds_in(folder: Path) -> dict[str, bytes]:
    suffixes = (".wav", ".flac", ".ogg")
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in suffixes}
