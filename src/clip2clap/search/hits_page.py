"""Page of the results of a search: images, and audio with players."""

import io
import os
from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path, PurePath
from string import Template
from typing import Any
from urllib.parse import quote

from PIL import Image

from clip2clap.core.errors import UserError, printable
from clip2clap.core.files import is_url
from clip2clap.core.version import __version__
from clip2clap.media.audio import VIDEO_SUFFIXES
from clip2clap.media.images import load_image
from clip2clap.report.audio_page import draw_audio, is_page
from clip2clap.report.page import data_uri, write_page
from clip2clap.search.index import Hit
from clip2clap.search.query import Query

_STYLE = """\
  h1 { overflow-wrap: anywhere; }
  .hits { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
    padding: 0; list-style: none; }
  .hits li { margin: 0; padding: .75rem; background: var(--card); border: 1px solid var(--line);
    border-radius: .75rem; overflow-wrap: anywhere; }
  .hits img, .hits video { display: block; width: 100%; height: 11rem; object-fit: contain;
    border-radius: .4rem; background: #000004; }
  .hits img.audio { height: 6.5rem; object-fit: fill; }
  .hits audio { width: 100%; margin-top: .5rem; }
  .hits blockquote { margin: 0; }
  .hits p { margin: .4rem 0 0; font-size: .9375rem; line-height: 1.4; }
  .hits a { color: inherit; }
  .soft { color: var(--soft); }
"""
_HIT = Template("""\
<li id="$modality-$rank">$shown
<p><b>$rank</b> <a href="$href" title="$path">$name</a></p>
<p class="soft">$score · $changed</p></li>
""")
_HEADINGS = {"image": "Images", "audio": "Audio", "text": "Texts"}
_LONGEST_SIDE = 480


def write_hits_page(path: str | Path, hits: Sequence[Hit], *, query: Query) -> None:
    """Write the results of a search as one HTML file, which links the files that were found.

    Args:
        path: File to write, replaced if it is such a page; its folder must exist.
        hits: Results, of one modality after the other.
        query: The query.

    Raises:
        UserError: If another program's file is at `path`.

    Examples:
        >>> from clip2clap.search.query import parse_query
        >>> write_hits_page("hits.html", [], query=parse_query("rain"))
    """
    path = Path(path)
    if path.exists() and not is_page(path, "search"):
        raise UserError(f"{path} was not written by clip2clap search. Name another.", param="html")
    parts = [_terms(query, path)]
    for modality, heading in _HEADINGS.items():
        own = [hit for hit in hits if hit.modality == modality]
        if own:
            items = "".join(_hit(hit, rank, path) for rank, hit in enumerate(own, start=1))
            parts.append(f'<h2>{heading}</h2><ol class="hits">\n{items}</ol>')
    if not hits:
        parts.append("<p>Nothing was found.</p>")
    write_page(
        path,
        verb="search",
        title=printable(str(query)),
        content="\n".join(parts),
        footer=f"Found with clip2clap {escape(__version__)}.",
        style=_STYLE,
        width="88rem",
    )


def _terms(query: Query, page: Path) -> str:
    """Return the images and audio files of a query, with players."""
    shown = [
        f'<li>{_shown(term.modality, term.value, page)}<p class="soft">{term.weight:+g}</p></li>'
        for term in query.terms
        if term.modality != "text"
    ]
    return f'<ul class="hits" aria-label="Query">{"".join(shown)}</ul>' if shown else ""


def _hit(hit: Hit, rank: int, page: Path) -> str:
    name = PurePath(hit.path).name + ("" if hit.line is None else f", line {hit.line}")
    shown = (
        f"<blockquote>{_text(hit.text)}</blockquote>"
        if hit.modality == "text"
        else _shown(hit.modality, hit.path, page)
    )
    return _HIT.substitute(
        modality=hit.modality,
        rank=rank,
        shown=shown,
        href=escape(_link(hit.path, page)),
        path=_text(_within(hit.path, page)),
        name=_text(name),
        score=f"{hit.score:.3f}",
        changed=datetime.fromtimestamp(hit.mtime).strftime("%Y-%m-%d"),
    )


def _shown(modality: str, source: str, page: Path) -> str:
    """Return an image, or audio with its picture and a player, as HTML."""
    link, name = escape(_link(source, page)), _text(PurePath(source).name)
    if Path(source).suffix.lower() in VIDEO_SUFFIXES:
        return f'<video controls preload="metadata" src="{link}" aria-label="{name}"></video>'
    player = f'<audio controls preload="none" src="{link}" aria-label="{name}"></audio>'
    if modality == "image":
        player = ""
    try:
        picture = draw_audio(Path(source)) if player else _thumbnail(source)
    except (UserError, OSError):
        return f'<p class="soft">{name} cannot be read any more.</p>{player}'
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=80, method=2)
    src = data_uri(encoded.getvalue(), "image/webp")
    kind = "audio" if player else "image"
    alt = f"Waveform and mel spectrogram of {name}" if player else name
    return f'<img class="{kind}" loading="lazy" src="{src}" alt="{alt}">{player}'


def _thumbnail(source: str) -> Image.Image:
    if is_url(source):
        raise UserError("Images of the web are not fetched twice.")
    image = load_image(source)
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), reducing_gap=2.0)
    return image


def _within(path: str, page: Path) -> str:
    """Return a path, relative to a page's folder if it is in there."""
    folder = f"{page.absolute().parent}{os.sep}"
    return path.removeprefix(folder)


def _link(source: str, page: Path) -> str:
    """Return the address of a file as seen from a page."""
    if is_url(source):
        return source
    target = os.path.abspath(os.path.expanduser(source))
    try:
        relative = os.path.relpath(target, page.absolute().parent)
    except ValueError:  # on another drive
        return Path(target).as_uri()
    return quote(os.fsencode(PurePath(relative).as_posix()))


def _text(value: Any) -> str:
    return escape(printable(str(value)))
