"""Photographs that a user named: read ahead, batch by batch, each with the name it gives."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGEST_URL_STEM = 80


@dataclass(frozen=True)
class Photograph:
    """A picture that was asked for: read, or with the reason why it cannot be."""

    index: int
    """Its place among the inputs, from 0; with the seed it decides its noise."""

    source: str
    """The file or URL it comes from."""

    image: "Image | None" = None
    """The picture, or None if it cannot be read."""

    reason: str | None = None
    """Why it cannot be read."""

    @property
    def stem(self) -> str:
        """The name its sound bears, without the suffix."""
        return stem_of(self.source)


def stem_of(source: str) -> str:
    """Give the name that a photograph's sound bears: its file's name without the suffix."""
    from clip2clap.media.images import is_url

    if not is_url(source):
        return Path(source).stem
    name = Path(unquote(urlsplit(source).path)).stem
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:_LONGEST_URL_STEM]
    return safe or "photograph"


def read_batches(sources: Sequence[str], size: int) -> Iterator[list[Photograph]]:
    """Read photographs, `size` at a time; one that cannot be read bears the reason."""
    from clip2clap.core.errors import UserError, one_line
    from clip2clap.media.images import load_image

    for start in range(0, len(sources), size):
        batch = []
        for index, source in enumerate(sources[start : start + size], start):
            try:
                batch.append(Photograph(index, source, image=load_image(source)))
            except (UserError, OSError) as error:
                batch.append(Photograph(index, source, reason=one_line(error, limit=None)))
        yield batch
