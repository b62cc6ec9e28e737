from .classify import FileClassifier
from .labels import read_labels, read_vocabulary

__all__ = ["FileClassifier", "read_labels", "read_vocabulary"]
