"""Measure translators and pipelines, and say how sure one can be."""

from clip2clap.evaluation.bootstrap import Figure, Resamples
from clip2clap.evaluation.embedding_level import (
    EmbeddingEvaluation,
    Kinds,
    Scores,
    TranslatorScores,
    evaluate_embeddings,
    nearest_kinds,
)

__all__ = [
    "EmbeddingEvaluation",
    "Figure",
    "Kinds",
    "Resamples",
    "Scores",
    "TranslatorScores",
    "evaluate_embeddings",
    "nearest_kinds",
]
