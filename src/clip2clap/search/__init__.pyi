from .classify import FileClassifier
from .labels import read_labels

__all__ = ["FileClassifier", "read_labels"]
