from .caption import FileCaptioner
from .classify import FileClassifier
from .describe import Describer
from .index import Index
from .keywords import KeywordExtractor
from .labels import read_labels, read_vocabulary
from .query import Query, parse_query
from .update import update_index

__all__ = [
    "Describer",
    "FileCaptioner",
    "FileClassifier",
    "Index",
    "KeywordExtractor",
    "Query",
    "parse_query",
    "read_labels",
    "read_vocabulary",
    "update_index",
]
