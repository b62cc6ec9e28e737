from .datasets.registry import open_source
from .encoders.base import read_space
from .encoders.clap import ClapEncoder
from .encoders.clip import ClipEncoder
from .extraction.pipeline import extract
from .norms.measure import measure_norms
from .space import EmbeddingSpace
from .table.convert import concatenate, export_table, import_table
from .table.reader import EmbeddingTable
from .table.writer import TableWriter

__all__ = [
    "ClapEncoder",
    "ClipEncoder",
    "EmbeddingSpace",
    "EmbeddingTable",
    "TableWriter",
    "concatenate",
    "export_table",
    "extract",
    "import_table",
    "measure_norms",
    "open_source",
    "read_space",
]
