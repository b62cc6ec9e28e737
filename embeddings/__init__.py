"""Encoders, the space an embedding lives in, and the table that stores embeddings."""

from clip2clap.embeddings.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace, SpaceMismatchError, require_same_model

__all__ = ["EmbeddingSpace", "SpaceMismatchError", "UserError", "require_same_model"]
