from .cache import GenerationConfig
from .classifiers import TransformersClassifier, ZeroShotClassifier
from .comparison import compare_results
from .datasets import read_audio_dataset, read_image_dataset
from .generation.audio import evaluate_audio
from .generation.images import evaluate_images
from .report.page import write_evaluation_page
from .results import Results
from .rows import choose_rows
from .translation import evaluate

__all__ = [
    "GenerationConfig",
    "Results",
    "TransformersClassifier",
    "ZeroShotClassifier",
    "choose_rows",
    "compare_results",
    "evaluate",
    "evaluate_audio",
    "evaluate_images",
    "read_audio_dataset",
    "read_image_dataset",
    "write_evaluation_page",
]
