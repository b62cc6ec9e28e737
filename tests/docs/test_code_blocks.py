"""Every command and Python block of README.md and docs/ runs offline, so that none goes stale."""

import glob
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from clip2clap.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?^```(?P<language>bash|python)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
# Why a block may be left out; anything else has to run.
REASONS = ("needs a hub", "needs a data set", "needs a cluster", "installs", "starts a process")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], found["reason"]) for found in BLOCK.finditer(text)
    ]


def label(page: Path) -> str:
    return str(page.relative_to(ROOT))


WITH_CODE = [page for page in PAGES if any(block.reason is None for block in blocks_of(page))]


@pytest.mark.parametrize("page", WITH_CODE, ids=label)
def test_the_blocks_of_a_page_run_in_order(page: Path, folder: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.reason is not None:
            continue
        if block.language == "python":
            exec(compile(block.code, label(page), "exec"), names)
        else:
            run_commands(block.code)


def run_commands(code: str) -> None:
    """Run the lines of a bash block that call `clip2clap`; installation is what CI begins with."""
    for line in code.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if not words or words[:2] == ["pip", "install"] or words[0] == "pytest":
                continue
            assert words[0] == "clip2clap", f"{command!r} is not run: say why in a comment"
            arguments = [
                match
                for word in words[1:]
                for match in (sorted(glob.glob(word)) if "*" in word else [word]) or [word]
            ]
            with pytest.raises(SystemExit) as ended:
                main(arguments)
            assert ended.value.code == 0, command


def test_blocks_are_left_out_for_a_known_reason() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.reason is None or block.reason.startswith(REASONS), label(page)


def test_no_page_indents_code_where_it_would_not_be_run() -> None:
    indented = re.compile(r"^    (clip2clap|import|from) ", re.MULTILINE)
    found = [label(page) for page in PAGES if indented.search(page.read_text(encoding="utf-8"))]
    assert not found
