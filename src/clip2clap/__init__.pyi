from .core.allocator import keep_freed_memory
from .core.errors import InterruptedCallError, UserError
from .embeddings import ClapEncoder, ClipEncoder, EmbeddingSpace, EmbeddingTable, extract
from .embeddings.encoders.speech import SpeechEncoder
from .evaluation import evaluate
from .inference import AudioToImagePipeline, ImageToAudioPipeline
from .media import AudioFileOptions, load_audio, read_tags, write_audio
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
    "AudioFileOptions",
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
    "SpeechEncoder",
    "TrainingConfig",
    "Translator",
    "UserError",
    "evaluate",
    "extract",
    "keep_freed_memory",
    "load_audio",
    "read_tags",
    "train",
    "write_audio",
]
