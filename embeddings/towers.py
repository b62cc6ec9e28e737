"""What every library's model comes down to: a recipe on disk, and towers in memory."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clip2clap.embeddings.checkpoint import Checkpoint
from clip2clap.embeddings.fingerprint import fingerprint_model, fingerprint_weights
from clip2clap.embeddings.space import Modality

Inputs = dict[str, Tensor]


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
    def build(self, dtype: torch.dtype) -> "Towers":
        """Build the model with exactly the weights of the checkpoint.

        Raises:
            CheckpointError: If the weights don't fit the configuration, or anything is damaged.
        """


class Towers(nn.Module, ABC):
    """A model's towers and the checkpoint's own preprocessing."""

    modalities: tuple[Modality, ...]
    """What can be embedded: the tower and its preprocessing are both there."""

    def prepare_images(self, images: Sequence[Image.Image]) -> Inputs:
        """Preprocess RGB pictures."""
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
