"""Conceptual Captions: captions and image URLs."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.core.files import is_url
from clip2clap.embeddings.datasets.base import Row, Source, Url, file_stems, split_columns
from clip2clap.embeddings.datasets.readers import open_text
from clip2clap.embeddings.space import Modality


@dataclass(frozen=True)
class ConceptualCaptions(Source):
    """Conceptual Captions (Sharma et al., 2018): caption and URL, separated by a tab, no header.

    A CSV file has a comma in between, and quotes.
    Conceptual 12M (Changpinyo et al., 2021) has the URL first, which its first line shows.
    """

    format = "conceptual-captions"
    wanted = frozenset[Modality]({"image", "text"})
    files: tuple[Path, ...]
    """Training or validation file as published."""

    def __iter__(self) -> Iterator[Row]:
        splits, stems = split_columns(self.files), file_stems(self.files)
        for path in self.files:
            is_url_first = None
            with open_text(path, newline="\n") as file:
                is_csv = ".csv" in path.suffixes
                for number, line in enumerate(line.rstrip("\r\n") for line in file):
                    caption, *rest = next(csv.reader([line]), [""]) if is_csv else line.split("\t")
                    url = rest[0].strip() if len(rest) == 1 else ""
                    if is_url_first is None:
                        is_url_first = is_url(caption) and not is_url(url)
                    if is_url_first:
                        caption, url = url, caption.strip()
                    columns = {"caption": caption, "url": url, **splits.get(path, {})}
                    problem = None
                    if len(rest) != 1:
                        problem = f"expected a caption and an address, got {1 + len(rest)} cells"
                    content: dict[Modality, Any] = {"text": caption, "image": Url(url)}
                    yield Row(f"{stems[path]}:{number}", columns, content, problem)
