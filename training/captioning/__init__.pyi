from .config import CaptionerConfig
from .data import CaptionedVectors, read_captions
from .train import CaptionerReport, train_captioner

__all__ = [
    "CaptionedVectors",
    "CaptionerConfig",
    "CaptionerReport",
    "read_captions",
    "train_captioner",
]
