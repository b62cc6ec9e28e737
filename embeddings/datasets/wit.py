"""WIT: images of Wikipedia with captions in 108 languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from clip2clap.core.errors import expect
from clip2clap.embeddings.datasets.base import Row, Source, Url, file_stems, split_columns
from clip2clap.embeddings.datasets.readers import PROBLEM, published_records
from clip2clap.embeddings.space import Modality

CaptionField = Literal["auto", "reference", "attribution", "alt"]

# In the order in which "auto" looks for a caption.
_CAPTIONS: dict[CaptionField, str] = {
    "reference": "caption_reference_description",
    "attribution": "caption_attribution_description",
    "alt": "caption_alt_text_description",
}
_COLUMNS = ("language", "image_url", "mime_type", *_CAPTIONS.values())
_READABLE_TYPES = {"image/jpeg", "image/png", "image/webp", "image/gif", "image/tiff"}


@dataclass(frozen=True)
class Wit(Source):
    """WIT (Srinivasan et al., 2021): image URLs and captions in one language."""

    format = "wit"
    wanted = frozenset[Modality]({"image", "text"})
    files: tuple[Path, ...]
    """Files as published, gzipped: `wit_v1.train.all-00000-of-00010.tsv.gz`."""

    language: str = "en"
    """Language of the rows, by Wikipedia's code: `en` is English, `uk` Ukrainian."""

    caption_field: CaptionField = "auto"
    """Caption to use; "auto" uses the first one of reference, attribution, alt text."""

    def __post_init__(self) -> None:
        fields, given = get_args(CaptionField), self.caption_field
        expect(given in fields, "caption_field", f"one of {', '.join(fields)}", given)

    @property
    def settings(self) -> dict[str, Any]:
        own = {"language": self.language, "caption_field": self.caption_field}
        return {**super().settings, **own}

    def __iter__(self) -> Iterator[Row]:
        columns_of_captions = [
            (field, column)
            for field, column in _CAPTIONS.items()
            if self.caption_field in ("auto", field)
        ]
        splits, stems = split_columns(self.files), file_stems(self.files)
        for path in self.files:
            for number, values in enumerate(published_records(path, _COLUMNS, "WIT")):
                if values["language"] != self.language:
                    continue
                found = ((field, values[column].strip()) for field, column in columns_of_captions)
                field, caption = next(((f, text) for f, text in found if text), (None, ""))
                url, mime_type = values["image_url"], values["mime_type"]
                if not mime_type and url.lower().endswith(".svg"):
                    mime_type = "image/svg+xml"
                problem = values.get(PROBLEM)
                if mime_type and mime_type not in _READABLE_TYPES:
                    problem = f"{mime_type} can't be read, only JPEG, PNG, WebP, GIF and TIFF"
                columns = {
                    "caption": caption,
                    "caption_field": field,
                    "url": url,
                    "page_url": values.get("page_url"),
                    **splits.get(path, {}),
                }
                content: dict[Modality, Any] = {"text": caption, "image": Url(url)}
                yield Row(f"{stems[path]}:{number}", columns, content, problem)
