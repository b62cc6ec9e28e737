"""Model cards: tables and sections of Markdown, and a file that keeps what somebody wrote."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clip2clap.core.errors import one_line
from clip2clap.core.files import replacing

CARD_FILE = "README.md"

_MARK = "<!-- Written by clip2clap. Without this line the card is kept as it is. -->"


def write_sections(
    folder: Path, name: str, header: str, opening: str, sections: Mapping[str, str]
) -> None:
    """Write a model card, unless somebody wrote or edited the one that the folder has.

    Args:
        folder: Folder of the model.
        name: Title, such as the repository's id.
        header: YAML metadata.
        opening: First sentence.
        sections: Text of each section by its title; empty ones are left out.
    """
    path = folder / CARD_FILE
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items() if body)
    with replacing(path) as partial:
        partial.write_text(
            f"---\n{header}\n---\n\n{_MARK}\n\n# {name}\n\n{opening}\n\n{text}\n",
            encoding="utf-8",
        )


def table(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    """Format a Markdown table; empty without rows."""
    lines = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in ([*header], *rows)]
    if len(lines) == 1:
        return ""
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return one_line(text, limit=120).replace("|", "\\|") if text else ""
