"""Queries of images, audio and words with weights, and how they are written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, is_url
from clip2clap.search.files import is_media, modality_of

_PREFIX = re.compile(r"(image|audio|text|speech):(?!//)(.*)", re.DOTALL)
# A sign between spaces, or at an end, that is followed by an even number of quotes.
_SIGN = re.compile(r"(?:^|(?<=\s))([+-])(?:$|(?=\s))(?=[^\"]*(?:\"[^\"]*\"[^\"]*)*$)")
TermModality = Literal["image", "text", "audio", "speech"]

_QUOTED = re.compile(r'"([^"]*)"((?::[\d.]+)?)')
_WEIGHT = re.compile(r"(.*):(\d+\.?\d*|\.\d+)", re.DOTALL)


@dataclass(frozen=True)
class Term:
    """Image, audio file, text or speech of a query."""

    modality: TermModality
    """Modality, `"image"`, `"text"` or `"audio"`; or `"speech"`, which means what it says."""

    value: str
    """File, URL of an image, or words."""

    weight: float = 1.0
    """Weight; negative for what is not wanted."""


@dataclass(frozen=True)
class Query:
    """Sum of images, audio files and texts; see `parse_query`.

    Examples:
        >>> from clip2clap.search.query import Term
        >>> print(Query((Term("text", "rain"), Term("text", "people", -0.5))))
        "rain" - "people":0.5
    """

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        parts: list[str] = []
        for term in self.terms:
            if parts or term.weight < 0:
                parts.append("-" if term.weight < 0 else "+")
            value = f'"{term.value}"' if term.modality == "text" else Path(term.value).name
            parts.append(value if abs(term.weight) == 1 else f"{value}:{abs(term.weight):g}")
        return " ".join(parts)


def parse_query(query: str | Path | Sequence[str]) -> Query:
    """Parse a query such as `photo.jpg + "rain":0.5 - "people"`.

    Terms are separated by `+` or `-`, with spaces around them; `-` is for what is not wanted. A
    term is an image or audio file, a URL of an image, or words, and may end in a colon and its
    weight. Words that are the name of a file are written `text:dog.jpg`; files whose name does not
    show what they are, `image:FILE` or `audio:FILE`. `speech:FILE` is a recording of words, which
    stand for what they say.

    Args:
        query: The query, whose words may be quoted; or its terms and signs, as a shell splits them.

    Raises:
        UserError: If there is no term, a sign stands alone, or a file does not exist.

    Examples:
        >>> query = parse_query('dog.jpg + "rain on a roof":0.5 - people')
        >>> query.terms[1]
        Term(modality='text', value='rain on a roof', weight=0.5)
    """
    if isinstance(query, Path) or (isinstance(query, str) and _is_file(query)):
        words = [str(query)]
    elif isinstance(query, str):
        words = _split(query)
    else:
        words = [str(each) for each in query]
    terms: list[Term] = []
    sign = 1
    is_open = False
    for word in words:
        if word.strip() in ("+", "-"):
            if is_open:
                raise UserError("Two signs stand side by side in the query.", param="query")
            sign, is_open = (1 if word.strip() == "+" else -1), True
            continue
        terms.append(_parse_term(word, sign))
        sign, is_open = 1, False
    if is_open or not terms:
        raise UserError(
            'Expected a query such as photo.jpg + "rain" - "people"'
            + (", which ends with a term." if terms else "; it has no term."),
            param="query",
        )
    return Query(tuple(terms))


def _parse_term(word: str, sign: int) -> Term:
    forced = _PREFIX.fullmatch(word)
    value, weight = (forced[2] if forced else word), 1.0
    weighted = _WEIGHT.fullmatch(value)
    # What ends an address without a path is its port.
    is_address = is_url(value) and value.count("/") < 3
    if weighted and not is_address and not _is_file(value):
        value, weight = weighted[1], float(weighted[2])
    value = value.strip()
    if not value:
        raise UserError("A term of the query is empty.", param="query")
    if forced and forced[1] == "text":
        return Term("text", value, sign * weight)
    if is_url(value):
        return Term("image", value, sign * weight)
    if forced or is_media(value) or value.startswith(("./", "../", "/", "~/")):
        if not _is_file(value):
            fix = "" if forced else f" For words write text:{value}."
            raise UserError(f"The query's {value} is no file.{fix}", param="query")
        named: TermModality = "audio" if modality_of(value) == "audio" else "image"
        modality = cast(TermModality, forced[1]) if forced else named
        return Term(modality, value, sign * weight)
    return Term("text", value, sign * weight)


def _split(query: str) -> list[str]:
    """Split a query at the signs outside quotes, and remove the quotes around terms."""
    if query.count('"') % 2:
        raise UserError(f"The query has a quote that is never closed: {query}", param="query")
    words = [word.strip() for word in _SIGN.split(query)]
    plain = (_QUOTED.sub(r"\1\2", w) if _QUOTED.fullmatch(w) else w for w in words)
    return [word for word in plain if word]


def _is_file(value: str) -> bool:
    try:
        return as_path(value).is_file()
    except UserError:  # no file can have this name
        return False
