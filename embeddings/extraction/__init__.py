"""From published data sets, or one's own, to a table of paired embeddings."""

from clip2clap.embeddings.extraction.opening import (
    Format,
    Published,
    Split,
    open_source,
    published_files,
)
from clip2clap.embeddings.extraction.pipeline import ExtractionReport, Progress, extract
from clip2clap.embeddings.extraction.plan import PAIRS, Column, EncoderPlan, Pair
from clip2clap.embeddings.extraction.rows import Row, Source, Url
from clip2clap.embeddings.extraction.sources import (
    AudioCaps,
    ConceptualCaptions,
    Fields,
    Folder,
    HubDataset,
    TableFile,
    WebDataset,
    Wit,
)

__all__ = [
    "PAIRS",
    "AudioCaps",
    "Column",
    "ConceptualCaptions",
    "EncoderPlan",
    "ExtractionReport",
    "Fields",
    "Folder",
    "Format",
    "HubDataset",
    "Pair",
    "Progress",
    "Published",
    "Row",
    "Source",
    "Split",
    "TableFile",
    "Url",
    "WebDataset",
    "Wit",
    "extract",
    "open_source",
    "published_files",
]
