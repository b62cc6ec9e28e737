from .config import SpeechTrainingConfig
from .networks import new_speech_model
from .train import SpeechReport, train_speech_encoder

__all__ = ["SpeechReport", "SpeechTrainingConfig", "new_speech_model", "train_speech_encoder"]
