from .config import TrainingConfig
from .losses import TranslationLoss
from .pairs import Pairs, join_pairs, read_pairs
from .report import SweepResult, TrainingReport
from .splits import split_pairs
from .sweep.grid import SweepGrid
from .sweep.run import sweep
from .train import train, train_translator

__all__ = [
    "Pairs",
    "SweepGrid",
    "SweepResult",
    "TrainingConfig",
    "TrainingReport",
    "TranslationLoss",
    "join_pairs",
    "read_pairs",
    "split_pairs",
    "sweep",
    "train",
    "train_translator",
]
