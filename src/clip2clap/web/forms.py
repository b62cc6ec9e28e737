"""Values that browsers and clients send, checked before they are used."""

from collections.abc import Callable, Generator, Mapping
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from clip2clap.core.errors import (
    InterruptedCallError,
    UserError,
    expect,
    is_integer,
    is_number,
    is_out_of_memory,
    one_line,
)
from clip2clap.core.files import is_url
from clip2clap.web.folders import Folders, safe_name
from clip2clap.web.runs import Run

Result = TypeVar("Result")

_LONGEST_TEXT = 500
_LONGEST_URL = 2000
_LARGEST_SEED = 2**63 - 1


def uploaded(value: Any, folders: Folders, *, what: str) -> tuple[str, Path]:
    """Return the name and the path of an uploaded file.

    Raises:
        UserError: If there is none.
    """
    if value is None:
        raise UserError(f"There is no {what} yet. Upload one.")
    path = value.get("path") if isinstance(value, Mapping) else None
    if not isinstance(path, str):
        raise UserError(f"Expected {what} as an uploaded file.")
    found = folders.file(path)
    return safe_name(found.name), found


def uploads(value: Any, folders: Folders, most: int, *, what: str) -> list[tuple[str, Path]]:
    """Return the names and the paths of uploaded files.

    Raises:
        UserError: If there are none, or too many.
    """
    given = value if isinstance(value, list) else []
    files = [uploaded(each, folders, what="file") for each in given]
    if not 0 < len(files) <= most:
        raise UserError(f"Upload 1 to {most} {what}.")
    return files


def image_source(upload: Any, address: Any, folders: Folders) -> tuple[str, bytes | None]:
    """Return the name and bytes of an uploaded image, or an address and None.

    Raises:
        UserError: If there is neither, or the address is none of http or https.
    """
    address = text(address, "address", longest=_LONGEST_URL)
    if address is not None:
        expect(is_url(address), "address", "one of http:// or https://", address)
        return address, None
    name, path = uploaded(upload, folders, what="image")
    return name, path.read_bytes()


def number(value: Any, name: str, least: float, most: float) -> float:
    """Return a number in a range.

    Raises:
        UserError: If it is none, or outside.
    """
    holds = is_number(value) and least <= value <= most
    expect(holds, name, f"from {least:g} to {most:g}", value)
    return float(value)


def integer(value: Any, name: str, least: int = 0, most: int = _LARGEST_SEED) -> int:
    """Return an integer in a range; a slider sends floats.

    Raises:
        UserError: If it is none, or outside.
    """
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    expect(is_integer(value) and least <= value <= most, name, f"from {least} to {most}", value)
    return value


def text(value: Any, name: str, *, longest: int = _LONGEST_TEXT) -> str | None:
    """Return a text, or None for an empty one.

    Raises:
        UserError: If it is none, or too long.
    """
    if value is None:
        return None
    expect(isinstance(value, str), name, "a text", type(value).__name__)
    if len(value) > longest:
        raise UserError(f"Expected {name} of at most {longest} characters, got {len(value)}.")
    return value.strip() or None


def texts(value: Any, name: str, *, longest: int, most: int) -> list[str]:
    """Return the texts that commas and line breaks separate.

    Raises:
        UserError: If there are none, or too many.
    """
    joined = text(value, name, longest=longest) or ""
    found = [each.strip() for each in joined.replace("\n", ",").split(",") if each.strip()]
    expect(0 < len(found) <= most, name, f"1 to {most} texts with commas between", len(found))
    return list(dict.fromkeys(found))


def explained(steps: Generator[Run, None, Result]) -> Generator[Run, None, Result]:
    """Follow a run, and raise its errors as the page shows them.

    Raises:
        gr.Error: With what a user can do, or, of a failure of the server, nothing of its inside.
    """
    try:
        return (yield from steps)
    except (UserError, InterruptedCallError) as error:
        message = one_line(error, limit=None)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = "There is not enough memory for it now. Ask for less, or later."
    raise refusal(message)


def followed(
    runs: Generator[Run, None, Result], show: Callable[[Run], Any]
) -> Generator[Any, None, Result]:
    """Yield what is shown of a run as it goes on, and return its result."""
    while True:
        try:
            run = next(runs)
        except StopIteration as end:
            return end.value
        yield show(run)


def refusal(error: object) -> gr.Error:
    """Return an error of a user's mistake, which is not logged; the page shows it as HTML."""
    return gr.Error(escape(one_line(error, limit=None)), title="Not done", print_exception=False)


def status(run: Run) -> str:
    """Return HTML of the progress of a run, with the time left."""
    left = run.seconds_left
    rest = "" if left is None else f", about {max(1, round(left))} s left"
    return (
        f'<progress max="1" value="{run.share:.3f}" aria-label="Progress"></progress> '
        f"{escape(run.note)}{rest}"
    )
