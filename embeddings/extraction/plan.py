"""What is to be embedded, and by which models: what can be known before one is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.base import read_space
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.space import EmbeddingSpace, Family, Modality

Column = Literal["clip_image", "clip_text", "clap_text", "clap_audio"]
Pair = Literal["image-audio", "image-caption", "caption-caption", "audio-caption"]

PAIRS: dict[Pair, tuple[Column, Column]] = {
    "image-audio": ("clip_image", "clap_audio"),
    "image-caption": ("clip_image", "clap_text"),
    "caption-caption": ("clip_text", "clap_text"),
    "audio-caption": ("clip_text", "clap_audio"),
}
"""The CLIP side and the CLAP side of a pair. A sound's caption is embedded by the CLIP."""

DEFAULT_CLIP = "clip-vit-base-patch32"
# The text tower inside the default generator's checkpoint, so that what is learnt fits what sounds.
DEFAULT_CLAP = "audioldm-s-full-v2"
# HTSAT takes memory: a batch of 64 sounds would need gigabytes.
_BATCH_SIZES: dict[Modality, int] = {"text": 64, "image": 64, "audio": 16}


def modality_of(column: Column) -> Modality:
    """Give what a column is made from."""
    modality: Any = column.split("_")[1]
    return modality


def family_of(column: Column) -> Family:
    """Give which of the two encoders makes a column."""
    family: Any = column.split("_")[0]
    return family


def modalities_of(columns: Sequence[Column]) -> frozenset[Modality]:
    """Give what a row must have for these columns."""
    return frozenset(modality_of(column) for column in columns)


@dataclass(frozen=True)
class EncoderPlan:
    """The encoders of a run, by name, so that any process can load them."""

    columns: tuple[Column, ...]
    """The columns of embeddings to make."""

    clip: str = DEFAULT_CLIP
    """Anything that `ClipEncoder.from_pretrained` takes."""

    clap: str = DEFAULT_CLAP
    """Anything that `ClapEncoder.from_pretrained` takes."""

    device: str = "cpu"
    """Where to compute."""

    weights_dtype: torch.dtype = torch.float32
    """The number format that the encoders compute in."""

    batch_size: int | None = None
    """Things in a batch; by default 64 captions or pictures, or 16 sounds."""

    def __post_init__(self) -> None:
        known = get_args(Column)
        if not self.columns or not set(self.columns) <= set(known):
            raise UserError(
                f"Expected columns among {', '.join(known)}, got {', '.join(self.columns)}."
            )
        if self.batch_size is not None and self.batch_size < 1:
            raise UserError(f"Expected batch_size of at least 1, got {self.batch_size}.")

    @property
    def wanted(self) -> frozenset[Modality]:
        """What a row must have."""
        return modalities_of(self.columns)

    @property
    def rows_in_batch(self) -> int:
        """Rows that fill a batch of the encoders."""
        return self.batch_size or min(_BATCH_SIZES[modality] for modality in self.wanted)

    def spaces(self) -> dict[str, EmbeddingSpace]:
        """Give every column's space, without building a model.

        Raises:
            UserError: If a model can't be found, or has no tower for a column.
        """
        names = {"clip": self.clip, "clap": self.clap}
        return {
            column: read_space(
                names[family_of(column)], family=family_of(column), modality=modality_of(column)
            )
            for column in self.columns
        }

    def load(self) -> "Encoders":
        """Load the encoders, each with the towers that are needed.

        Raises:
            UserError: If a model can't be loaded, or has no tower for a column.
        """
        loaded: dict[Family, ClipEncoder | ClapEncoder] = {}
        families: list[Family] = ["clip", "clap"]
        for family in families:
            modalities: list[Modality] = [
                modality_of(c) for c in self.columns if family_of(c) == family
            ]
            if not modalities:
                continue
            kind, name = (ClipEncoder, self.clip) if family == "clip" else (ClapEncoder, self.clap)
            loaded[family] = kind.from_pretrained(
                name, device=self.device, torch_dtype=self.weights_dtype, modalities=modalities
            )
        return Encoders(self, loaded)


class Encoders:
    """The loaded encoders of a plan, column by column."""

    def __init__(self, plan: EncoderPlan, loaded: Mapping[Family, ClipEncoder | ClapEncoder]):
        self.plan = plan
        self._loaded = loaded
        # Asked for here, so that a missing tower is told before any row is read.
        self.spaces = {c: self.of(c).space(modality_of(c)) for c in plan.columns}

    def of(self, column: Column) -> ClipEncoder | ClapEncoder:
        """Give the encoder that makes a column."""
        return self._loaded[family_of(column)]
