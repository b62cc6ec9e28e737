"""What every library's model comes down to: a recipe on disk, and towers in memory."""

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

from clip2clap.embeddings.checkpoint import Checkpoint
from clip2clap.embeddings.fingerprint import fingerprint_model, fingerprint_weights
from clip2clap.embeddings.space import Modality

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class PixelRecipe:
    """A checkpoint's preprocessing of pictures, as steps that a gradient goes through."""

    height: int
    """Rows that the tower sees."""

    width: int
    """Columns that the tower sees."""

    short_side: int | None
    """What the short side is scaled to before the middle is cut out; None if the whole picture is
    squeezed into height and width."""

    interpolation: Literal["bilinear", "bicubic"]
    """How pixels are scaled, always with antialiasing, as PIL does."""

    mean: tuple[float, ...]
    """What is subtracted from each channel of pixels in [0, 1]."""

    std: tuple[float, ...]
    """What each channel is divided by."""

    any_size: bool
    """Whether the tower takes pictures of other sizes than its own, as convolutions do."""

    def __call__(self, pixels: Tensor, size: int | None = None) -> Tensor:
        """Prepare pixels for the tower.

        Args:
            pixels: Shape (n, 3, h, w), in [0, 1].
            size: Side of the square that the tower shall see instead of its own size.

        Returns:
            The tower's input, shape (n, 3, height, width) or (n, 3, size, size).
        """
        height, width = (self.height, self.width) if size is None else (size, size)
        scaled = (height, width)
        if size is None and self.short_side is not None:
            short = min(pixels.shape[-2:])
            # Cut off, not rounded, as the processors of transformers and torchvision do.
            rows, columns = (self.short_side * side // short for side in pixels.shape[-2:])
            scaled = (rows, columns)
        if scaled != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, scaled, mode=self.interpolation, antialias=True)
            # PIL's bicubic stays within what eight bits hold.
            pixels = pixels.clamp(0, 1)
        top, left = ((a - b) // 2 for a, b in zip(scaled, (height, width), strict=True))
        pixels = pixels[..., top : top + height, left : left + width]
        mean, std = (pixels.new_tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std


class Recipe(ABC):
    """What a checkpoint says of itself, read without building the model."""

    checkpoint: Checkpoint

    dim: int
    """Values in a vector."""

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        self.weights_fingerprint = fingerprint_weights(checkpoint.weights)

    @property
    def fingerprint(self) -> str:
        """What tells this model and its preprocessing from any other."""
        return fingerprint_model(self.weights_fingerprint, self.describe())

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Give the preprocessing that changes a vector."""

    @abstractmethod
    def build(self, dtype: torch.dtype) -> "Backend":
        """Build the model with exactly the weights of the checkpoint.

        Raises:
            CheckpointError: If the weights don't fit the configuration, or anything is damaged.
        """


class Backend(nn.Module, ABC):
    """A model's towers and the checkpoint's own preprocessing."""

    modalities: tuple[Modality, ...]
    """What can be embedded: the tower and its preprocessing are both there."""

    def prepare_images(self, images: Sequence[Image.Image]) -> Inputs:
        """Preprocess RGB pictures."""
        raise NotImplementedError

    @property
    def pixel_recipe(self) -> PixelRecipe:
        """The preprocessing of pictures, for those that are tensors with a gradient.

        Raises:
            UserError: If the checkpoint's preprocessing has steps that are not known here.
        """
        raise NotImplementedError

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into token ids, cut to the length that the tower takes."""

    @abstractmethod
    def pad(self, ids: Sequence[list[int]]) -> Inputs:
        """Make a batch of tokenized texts."""

    def prepare_audios(self, windows: Sequence[np.ndarray]) -> Inputs:
        """Preprocess windows of sound at the tower's own rate, each at most `window` long."""
        raise NotImplementedError

    @property
    def sampling_rate(self) -> int:
        """The rate that the audio tower takes, in Hz."""
        raise NotImplementedError

    @property
    def window(self) -> int:
        """Samples that the audio tower takes at once."""
        raise NotImplementedError

    @abstractmethod
    def embed(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Run a tower, shape (n, dim), of any norm."""

    @abstractmethod
    def keep(self, towers: Sequence[Modality]) -> None:
        """Let go of all but the given towers."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write weights and preprocessing so that they load again."""
