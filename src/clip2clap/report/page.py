"""HTML kit of the reports: page frame, tables, images. Each page is one self-contained file."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from clip2clap.core.files import replacing

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
$generator
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
  :root { --paper: #faf8f4; --card: #ffffff; --ink: #1d1b18; --soft: #5d5850; --line: #e2ddd3; }
  @media (prefers-color-scheme: dark) {
    :root {
      --paper: #161412; --card: #211e1b; --ink: #f1ede6; --soft: #b3aca1; --line: #37322d;
    }
  }
  * { box-sizing: border-box; }
  body {
    margin: 0; padding: clamp(1rem, 4vw, 3rem); background: var(--paper); color: var(--ink);
    font: 1.0625rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  }
  main { max-width: $width; margin: 0 auto; }
  h1 { margin: 0 0 .5rem; font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.2; }
  h2 { margin: 2rem 0 .5rem; font-size: 1.3rem; }
  p { max-width: 46rem; }
  .card {
    margin: 0 0 1.5rem; padding: clamp(.5rem, 2vw, 1rem); background: var(--card);
    border: 1px solid var(--line); border-radius: .75rem; overflow-x: auto;
  }
  .picture { background: #ffffff; }
  .picture img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
  .wide img { min-width: 44rem; width: 100%; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
  th, td { padding: .35rem 1rem .35rem 0; text-align: left; border-top: 1px solid var(--line); }
  td { white-space: nowrap; }
  th { vertical-align: bottom; }
  footer { margin-top: 2rem; color: var(--soft); font-size: .9375rem; }
$style</style>
</head>
<body>
<main>
  <h1>$title</h1>
$content
  <footer>$footer</footer>
</main>
</body>
</html>
""")


def write_page(
    path: Path,
    *,
    verb: str,
    title: str,
    content: str,
    footer: str,
    style: str = "",
    width: str = "76rem",
) -> None:
    """Write a page atomically.

    Args:
        path: File to write, replaced if it exists; its folder must exist.
        verb: Verb of the command that writes it.
        title: Title.
        content: HTML below the title.
        footer: HTML at the end.
        style: CSS in addition to that of all pages.
        width: Largest width, in CSS.
    """
    page = _PAGE.substitute(
        generator=generator_tag(verb),
        title=escape(title),
        content=content,
        footer=footer,
        style=style,
        width=width,
    )
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def generator_tag(verb: str) -> str:
    """Return the meta tag that names the verb that wrote a page."""
    return f'<meta name="generator" content="clip2clap {verb}">'


def data_uri(content: bytes, media_type: str) -> str:
    """Return content as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def card(label: str, content: str) -> str:
    """Wrap HTML, such as a wide table, in a scrollable card."""
    return (
        f'<div class="card" tabindex="0" role="region" aria-label="{escape(label)}">{content}</div>'
    )


def picture(png: bytes, text: str, *, label: str | None = None) -> str:
    """Return a PNG with its alternative text as HTML; with a label, in a scrollable region."""
    image = f'<img src="{data_uri(png, "image/png")}" alt="{escape(text)}">'
    if label is None:
        return f'<div class="card picture">{image}</div>'
    region = f'tabindex="0" role="region" aria-label="{escape(label)}"'
    return f'<div class="card picture wide" {region}>{image}</div>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of text cells."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"
