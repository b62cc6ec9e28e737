from .core.allocator import keep_freed_memory
from .core.errors import InterruptedCallError, UserError
from .embeddings import ClapEncoder, ClipEncoder, EmbeddingSpace, EmbeddingTable, extract
from .evaluation import evaluate
from .inference import AudioToImagePipeline, ImageToAudioPipeline
from .training import TrainingConfig, train
from .translator import (
    AutoTranslator,
    LinearTranslator,
    MLPTranslator,
    PriorTranslator,
    ResidualTranslator,
    Translator,
)

__version__: str

__all__ = [
    "AudioToImagePipeline",
    "AutoTranslator",
    "ClapEncoder",
    "ClipEncoder",
    "EmbeddingSpace",
    "EmbeddingTable",
    "ImageToAudioPipeline",
    "InterruptedCallError",
    "LinearTranslator",
    "MLPTranslator",
    "PriorTranslator",
    "ResidualTranslator",
    "TrainingConfig",
    "Translator",
    "UserError",
    "evaluate",
    "extract",
    "keep_freed_memory",
    "train",
]
