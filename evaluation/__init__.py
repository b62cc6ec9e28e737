"""Measure translators and pipelines, and say how sure one can be."""

from clip2clap.evaluation.bootstrap import Figure, Resamples
from clip2clap.evaluation.comparison import Difference, compare_results
from clip2clap.evaluation.distances import frechet_distance, kernel_distance
from clip2clap.evaluation.embedding_level import (
    EmbeddingEvaluation,
    Kinds,
    Scores,
    TranslatorScores,
    evaluate_embeddings,
    nearest_kinds,
)
from clip2clap.evaluation.examples import best_and_worst
from clip2clap.evaluation.judges import ClassifierJudge, Judge, ZeroShotJudge
from clip2clap.evaluation.page import Example, Exhibits, leaderboard, write_evaluation_page
from clip2clap.evaluation.results import Results, embedding_results, join_results
from clip2clap.evaluation.rows import EvaluatedRows, choose_rows
from clip2clap.evaluation.sound_level import (
    MadeSounds,
    SoundEvaluation,
    SoundScores,
    evaluate_sounds,
    sound_results,
)
from clip2clap.evaluation.stills import Recording, Still, Stills, read_stills

__all__ = [
    "ClassifierJudge",
    "Difference",
    "EmbeddingEvaluation",
    "EvaluatedRows",
    "Example",
    "Exhibits",
    "Figure",
    "Judge",
    "Kinds",
    "MadeSounds",
    "Recording",
    "Resamples",
    "Results",
    "Scores",
    "SoundEvaluation",
    "SoundScores",
    "Still",
    "Stills",
    "TranslatorScores",
    "ZeroShotJudge",
    "best_and_worst",
    "choose_rows",
    "compare_results",
    "embedding_results",
    "evaluate_embeddings",
    "evaluate_sounds",
    "frechet_distance",
    "join_results",
    "kernel_distance",
    "leaderboard",
    "nearest_kinds",
    "read_stills",
    "sound_results",
    "write_evaluation_page",
]
