"""Encoders, the space an embedding lives in, and the table that stores embeddings."""

from typing import TYPE_CHECKING, Any

from clip2clap.embeddings.checkpoint import CheckpointError, MissingExtraError, ModelNotFoundError
from clip2clap.embeddings.errors import UserError
from clip2clap.embeddings.exports import export_table, import_table
from clip2clap.embeddings.images import UnreadableImageError, find_images, load_image
from clip2clap.embeddings.norms import NormReport, measure_norms
from clip2clap.embeddings.space import (
    EmbeddingSpace,
    SpaceMismatchError,
    require_same_model,
    unit_norm,
)
from clip2clap.embeddings.table import EmbeddingTable, TableError, TableWriter, concatenate

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders import ClapEncoder, ClipEncoder, read_space

__all__ = [
    "CheckpointError",
    "ClapEncoder",
    "ClipEncoder",
    "EmbeddingSpace",
    "EmbeddingTable",
    "MissingExtraError",
    "ModelNotFoundError",
    "NormReport",
    "SpaceMismatchError",
    "TableError",
    "TableWriter",
    "UnreadableImageError",
    "UserError",
    "concatenate",
    "export_table",
    "find_images",
    "import_table",
    "load_image",
    "measure_norms",
    "read_space",
    "require_same_model",
    "unit_norm",
]


def __getattr__(name: str) -> Any:
    """Import the encoders on first use: training and tables need no transformers, 240 MB of it."""
    if name not in ("ClapEncoder", "ClipEncoder", "read_space"):
        raise AttributeError(f"module 'clip2clap.embeddings' has no attribute {name!r}")
    from clip2clap.embeddings import encoders

    return getattr(encoders, name)
