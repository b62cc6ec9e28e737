"""Plan of an extraction: embedding columns and the encoders that compute them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch

from clip2clap.core.errors import expect
from clip2clap.core.presets import DEFAULT_CLIP, DEFAULT_GENERATOR
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
"""CLIP column and CLAP column of a pair; the caption of an audio is embedded by the CLIP."""

# A batch of 64 audios would need gigabytes in HTSAT.
_BATCH_SIZES: dict[Modality, int] = {"text": 64, "image": 64, "audio": 16}


def modality_of(column: Column) -> Modality:
    """Return the modality that a column is computed from."""
    return cast(Modality, column.split("_")[1])


def family_of(column: Column) -> Family:
    """Return the family of the encoder that computes a column."""
    return cast(Family, column.split("_")[0])


@dataclass(frozen=True)
class EncoderPlan:
    """Columns of a run and the names of their encoders, which any process can load."""

    columns: tuple[Column, ...]
    """Embedding columns."""

    clip: str = DEFAULT_CLIP
    """CLIP: preset, hub id or folder."""

    clap: str = DEFAULT_GENERATOR
    """CLAP: preset, hub id or folder; by default the default generator's, which translators fit."""

    device: str = "cpu"
    """Device of the encoders."""

    weights_dtype: torch.dtype = torch.float32
    """Dtype of the encoders' weights."""

    batch_size: int | None = None
    """Batch size; by default 64 captions or images, or 16 audios."""

    def __post_init__(self) -> None:
        known = get_args(Column)
        is_known = self.columns and set(self.columns) <= set(known)
        expect(is_known, "columns", f"some of {', '.join(known)}", self.columns)
        is_size = self.batch_size is None or self.batch_size > 0
        expect(is_size, "batch_size", "at least 1", self.batch_size)

    @property
    def wanted(self) -> frozenset[Modality]:
        """Modalities that a row needs."""
        return frozenset(modality_of(column) for column in self.columns)

    @property
    def rows_in_batch(self) -> int:
        """Rows in a batch of the encoders."""
        return self.batch_size or min(_BATCH_SIZES[modality] for modality in self.wanted)

    def spaces(self) -> dict[str, EmbeddingSpace]:
        """Return every column's space, without building a model."""
        names = {"clip": self.clip, "clap": self.clap}
        return {
            column: read_space(
                names[family_of(column)], family=family_of(column), modality=modality_of(column)
            )
            for column in self.columns
        }

    def load(self) -> "Encoders":
        """Load the encoders for the modalities of the columns."""
        loaded: dict[Family, ClipEncoder | ClapEncoder] = {}
        for encoder, name in ((ClipEncoder, self.clip), (ClapEncoder, self.clap)):
            columns: list[Column] = [c for c in self.columns if family_of(c) == encoder.family]
            if columns:
                loaded[encoder.family] = encoder.from_pretrained(
                    name,
                    device=self.device,
                    torch_dtype=self.weights_dtype,
                    modalities=[modality_of(column) for column in columns],
                )
        return Encoders(self, loaded)


class Encoders:
    """Loaded encoders of a plan, by column."""

    def __init__(self, plan: EncoderPlan, loaded: Mapping[Family, ClipEncoder | ClapEncoder]):
        self.plan = plan
        self._loaded = loaded
        # Raises for a missing modality before any row is read.
        self.spaces = {c: self.of(c).space(modality_of(c)) for c in plan.columns}

    def of(self, column: Column) -> ClipEncoder | ClapEncoder:
        """Return the encoder that computes a column."""
        return self._loaded[family_of(column)]
