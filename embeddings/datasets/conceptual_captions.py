"""Conceptual Captions: captions and image URLs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clip2clap.embeddings.datasets.base import (
    Row,
    Source,
    Url,
    file_stem,
    open_text,
    split_columns,
)
from clip2clap.embeddings.space import Modality


@dataclass(frozen=True)
class ConceptualCaptions(Source):
    """Conceptual Captions (Sharma et al., 2018): caption and URL, separated by a tab, no header."""

    format = "conceptual-captions"
    wanted = frozenset[Modality]({"image", "text"})
    files: tuple[Path, ...]
    """Training or validation file as published."""

    def __iter__(self) -> Iterator[Row]:
        """Yield the rows of the files; the id is file and line."""
        splits = split_columns(self.files)
        for path in self.files:
            stem = file_stem(path)
            with open_text(path, newline="\n") as file:
                for number, line in enumerate(file):
                    caption, *rest = line.rstrip("\r\n").split("\t")
                    url = rest[0].strip() if len(rest) == 1 else ""
                    columns = {"caption": caption, "url": url, **splits.get(path, {})}
                    problem = None
                    if len(rest) != 1:
                        problem = f"expected a caption, a tab and an address, got {len(rest)} tabs"
                    content: dict[Modality, Any] = {"text": caption, "image": Url(url)}
                    yield Row(f"{stem}:{number}", columns, content, problem)
