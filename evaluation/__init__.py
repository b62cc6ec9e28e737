"""Measure translators and pipelines, and say how sure one can be."""

from clip2clap.evaluation.bootstrap import Figure, Resamples
from clip2clap.evaluation.comparison import Difference, compare_results
from clip2clap.evaluation.embedding_level import (
    EmbeddingEvaluation,
    Kinds,
    Scores,
    TranslatorScores,
    evaluate_embeddings,
    nearest_kinds,
)
from clip2clap.evaluation.page import Example, Exhibits, leaderboard, write_evaluation_page
from clip2clap.evaluation.results import Results, embedding_results, join_results
from clip2clap.evaluation.rows import EvaluatedRows, choose_rows

__all__ = [
    "Difference",
    "EmbeddingEvaluation",
    "EvaluatedRows",
    "Example",
    "Exhibits",
    "Figure",
    "Kinds",
    "Resamples",
    "Results",
    "Scores",
    "TranslatorScores",
    "choose_rows",
    "compare_results",
    "embedding_results",
    "evaluate_embeddings",
    "join_results",
    "leaderboard",
    "nearest_kinds",
    "write_evaluation_page",
]
