"""Measure translators and pipelines, and say how sure one can be."""

from clip2clap.evaluation.bootstrap import Figure, Resamples
from clip2clap.evaluation.comparison import Difference, compare_results
from clip2clap.evaluation.contact_sheet import SheetRow, sheet_rows, write_contact_sheet
from clip2clap.evaluation.distances import frechet_distance, kernel_distance
from clip2clap.evaluation.embedding_level import (
    EmbeddingEvaluation,
    Kinds,
    Scores,
    TranslatorScores,
    evaluate_embeddings,
    nearest_kinds,
)
from clip2clap.evaluation.examples import best_and_worst, best_and_worst_pictures
from clip2clap.evaluation.judges import ClassifierJudge, Judge, ZeroShotJudge
from clip2clap.evaluation.page import Example, Exhibits, leaderboard, write_evaluation_page
from clip2clap.evaluation.picture_level import (
    MadePictures,
    PictureEvaluation,
    PictureScores,
    evaluate_pictures,
    picture_results,
)
from clip2clap.evaluation.results import Results, embedding_results, join_results, sought
from clip2clap.evaluation.round_trip import RoundTrip, RoundTripScores, measure_round_trip
from clip2clap.evaluation.rows import EvaluatedRows, choose_rows
from clip2clap.evaluation.sound_level import (
    MadeSounds,
    SoundEvaluation,
    SoundScores,
    evaluate_sounds,
    sound_results,
)
from clip2clap.evaluation.stills import Recording, Still, Stills, read_stills
from clip2clap.evaluation.takes import Photograph, Take, Takes, read_takes, takes_of_rows

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
    "MadePictures",
    "MadeSounds",
    "Photograph",
    "PictureEvaluation",
    "PictureScores",
    "Recording",
    "Resamples",
    "Results",
    "RoundTrip",
    "RoundTripScores",
    "Scores",
    "SheetRow",
    "SoundEvaluation",
    "SoundScores",
    "Still",
    "Stills",
    "Take",
    "Takes",
    "TranslatorScores",
    "ZeroShotJudge",
    "best_and_worst",
    "best_and_worst_pictures",
    "choose_rows",
    "compare_results",
    "embedding_results",
    "evaluate_embeddings",
    "evaluate_pictures",
    "evaluate_sounds",
    "frechet_distance",
    "join_results",
    "kernel_distance",
    "leaderboard",
    "measure_round_trip",
    "nearest_kinds",
    "picture_results",
    "read_stills",
    "read_takes",
    "sheet_rows",
    "sought",
    "sound_results",
    "takes_of_rows",
    "write_contact_sheet",
    "write_evaluation_page",
]
