from .classify import ClassifiedFile, FileClassifier, Segment
from .labels import LABEL_SETS, read_labels
from .timeline import write_timeline

__all__ = [
    "LABEL_SETS",
    "ClassifiedFile",
    "FileClassifier",
    "Segment",
    "read_labels",
    "write_timeline",
]
