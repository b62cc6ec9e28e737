"""Fit a translator and measure it."""

from clip2clap.training.config import TrainingConfig
from clip2clap.training.loop import train, train_translator
from clip2clap.training.losses import (
    TranslationLoss,
    bank_loss,
    contrastive_loss,
    cosine_loss,
    distinct_targets,
    infonce_loss,
    mse_loss,
)
from clip2clap.training.metrics import (
    Retrieval,
    mean_reciprocal_rank,
    measure_retrieval,
    median_rank,
    recall_at_k,
    retrieval_metrics,
    retrieval_ranks,
    reverse_ranks,
)
from clip2clap.training.pairs import Pairs, Split, join_pairs, read_pairs, split_pairs
from clip2clap.training.report import EpochRecord, SweepResult, TrainingProgress, TrainingReport
from clip2clap.training.sweeps import SweepGrid, SweepProgress, sweep

__all__ = [
    "EpochRecord",
    "Pairs",
    "Retrieval",
    "Split",
    "SweepGrid",
    "SweepProgress",
    "SweepResult",
    "TrainingConfig",
    "TrainingProgress",
    "TrainingReport",
    "TranslationLoss",
    "bank_loss",
    "contrastive_loss",
    "cosine_loss",
    "distinct_targets",
    "infonce_loss",
    "join_pairs",
    "mean_reciprocal_rank",
    "measure_retrieval",
    "median_rank",
    "mse_loss",
    "read_pairs",
    "recall_at_k",
    "retrieval_metrics",
    "retrieval_ranks",
    "reverse_ranks",
    "split_pairs",
    "sweep",
    "train",
    "train_translator",
]
