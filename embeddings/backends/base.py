"""Interfaces of a backend: the spec of a checkpoint on disk, and the model in memory."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.presets import public_name
from clip2clap.embeddings.checkpoint import Checkpoint
from clip2clap.embeddings.fingerprint import digest, fingerprint_weights
from clip2clap.embeddings.space import EmbeddingSpace, Family, Modality

Inputs = dict[str, Tensor]
"""Model inputs of a batch by name."""


@dataclass(frozen=True)
class PixelTransform:
    """Differentiable image preprocessing: resize, center crop and normalize.

    The model's input has a height and width in pixels; images are resized to them, or to
    `short_side` before the center crop, with antialiasing as in PIL. Mean and standard deviation
    of the channels are for pixels in [0, 1]. `any_size` is True if the model accepts other input
    sizes, as convolutional networks do.
    """

    height: int
    width: int
    short_side: int | None
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    any_size: bool

    def __call__(self, pixels: Tensor, size: int | None = None) -> Tensor:
        """Preprocess RGB images, shape (n, 3, h, w), in [0, 1], to a square of `size` if given."""
        height, width = (self.height, self.width) if size is None else (size, size)
        scaled = (height, width)
        if size is None and self.short_side is not None:
            short = min(pixels.shape[-2:])
            # Truncated, not rounded, as the processors of transformers and torchvision do.
            rows, columns = (self.short_side * side // short for side in pixels.shape[-2:])
            scaled = (rows, columns)
        if scaled != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, scaled, mode=self.interpolation, antialias=True)
            # PIL's bicubic clips to the range of 8 bits.
            pixels = pixels.clamp(0, 1)
        top, left = ((a - b) // 2 for a, b in zip(scaled, (height, width), strict=True))
        pixels = pixels[..., top : top + height, left : left + width]  # (n, 3, height, width)
        mean, std = (pixels.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std


@dataclass(frozen=True)
class TextProcessor:
    """Tokenizer of transformers with the text length and padding of the model's training."""

    tokenizer: Any
    length: int
    padding: Literal["longest", "max_length"] = "longest"
    names: tuple[str, ...] = ("input_ids", "attention_mask")

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), truncation=True, max_length=self.length)["input_ids"]

    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        padded = self.tokenizer.pad(
            {"input_ids": list(ids)},
            padding=self.padding,
            max_length=self.length,
            return_tensors="pt",
        )
        return {name: padded[name] for name in self.names}

    def save_pretrained(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


class CheckpointSpec(ABC):
    """Config and preprocessing of a checkpoint, read without building the model."""

    dim: int
    """Dimension of the embeddings."""

    def __init__(self, checkpoint: Checkpoint, family: Family):
        self.checkpoint = checkpoint
        self.family: Family = family
        self.weights_fingerprint = fingerprint_weights(checkpoint.weights)

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the preprocessing settings that change an embedding."""

    @abstractmethod
    def build(self, dtype: torch.dtype) -> "Backend":
        """Build the model with exactly the weights of the checkpoint."""

    def space(self, modality: Modality) -> EmbeddingSpace:
        """Return the embedding space; a folder saved by an encoder keeps the original space."""
        model_id = public_name(self.checkpoint.name)
        fingerprint = digest([self.weights_fingerprint, self.describe()])
        note = self.checkpoint.note
        # The note holds for the weights it was written with, not for any that replaced them.
        if note.get("saved_weights") == self.weights_fingerprint:
            model_id, fingerprint = note["model_id"] or model_id, note["fingerprint"]
        return EmbeddingSpace(
            family=self.family,
            model_id=model_id,
            modality=modality,
            dim=self.dim,
            unit_norm=True,
            fingerprint=fingerprint,
        )


class Backend(nn.Module, ABC):
    """Model of one library with the checkpoint's own preprocessing."""

    modalities: tuple[Modality, ...]
    """Modalities with both weights and preprocessing."""

    text_processor: TextProcessor | None = None

    def preprocess_images(self, images: Sequence[Image.Image]) -> Inputs:
        """Preprocess RGB images."""
        raise NotImplementedError

    @property
    def pixel_transform(self) -> PixelTransform:
        """Differentiable form of the image preprocessing; a `UserError` if it has none here."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenize texts, truncated to the model's maximum length."""
        assert self.text_processor is not None
        return self.text_processor.tokenize(texts)

    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        """Pad tokenized texts to a batch."""
        assert self.text_processor is not None
        return self.text_processor.pad(ids)

    def preprocess_audio(self, windows: Sequence[np.ndarray]) -> Inputs:
        """Preprocess waveforms at `sampling_rate`, each at most `window` samples long."""
        raise NotImplementedError

    def waveform_inputs(self, windows: Sequence[Tensor]) -> Inputs:
        """Preprocess waveforms as `preprocess_audio` does, with gradients to their samples."""
        raise NotImplementedError

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the audio encoder, in Hz."""
        raise NotImplementedError

    @property
    def window(self) -> int:
        """Longest audio input, in samples."""
        raise NotImplementedError

    @abstractmethod
    def encode(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Encode a batch, shape (n, dim), not normalized."""

    def keep(self, modalities: Sequence[Modality]) -> None:
        """Restrict the model to the given modalities and free the others' weights if possible."""
        self.modalities = tuple(m for m in self.modalities if m in modalities)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Save weights and preprocessing to a folder."""
