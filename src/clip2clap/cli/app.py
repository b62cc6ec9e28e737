"""The `clip2clap` command.

Modules of verbs import heavy libraries inside functions, after the arguments are checked, so that
help and mistakes are answered at once.
"""

import codecs
import contextlib
import functools
import gc
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from clip2clap.cli.audio_to_image import audio_to_image
from clip2clap.cli.benchmark import benchmark
from clip2clap.cli.caption import caption
from clip2clap.cli.classify import classify
from clip2clap.cli.command import Interrupted, add_verb
from clip2clap.cli.demo import demo
from clip2clap.cli.doctor import doctor
from clip2clap.cli.evaluate import evaluate
from clip2clap.cli.extract import extract
from clip2clap.cli.finetune import finetune
from clip2clap.cli.fit import fit
from clip2clap.cli.guide import guide
from clip2clap.cli.image_to_audio import image_to_audio
from clip2clap.cli.import_translator import import_translator
from clip2clap.cli.index import index
from clip2clap.cli.keywords import keywords
from clip2clap.cli.norms import norms
from clip2clap.cli.paint import paint
from clip2clap.cli.progress import json_document
from clip2clap.cli.repeat import repeat
from clip2clap.cli.search import search
from clip2clap.cli.serve import serve
from clip2clap.cli.sweep import sweep
from clip2clap.cli.train import train
from clip2clap.cli.train_captioner import train_captioner
from clip2clap.cli.train_speech import train_speech
from clip2clap.core.allocator import keep_freed_memory
from clip2clap.core.errors import UserError, is_out_of_memory, one_line
from clip2clap.core.files import FULL_DISK_ERRORS
from clip2clap.core.version import __version__

# Importing torch and diffusers makes half a million objects, which Python searches for cycles again
# and again: a seventh of the CPU seconds until first useful work. Young ones it searches as before.
_GC_THRESHOLDS = (700, 10, 200)

app = typer.Typer(
    name="clip2clap",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = (
    demo,
    image_to_audio,
    repeat,
    audio_to_image,
    paint,
    guide,
    classify,
    index,
    search,
    keywords,
    caption,
    extract,
    norms,
    train,
    fit,
    import_translator,
    finetune,
    evaluate,
    benchmark,
    sweep,
    serve,
    train_captioner,
    train_speech,
    doctor,
)
for _verb in VERBS:
    add_verb(app, _verb)


@app.callback(invoke_without_command=True)
def clip2clap(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Generate audio from images, and images from audio. To begin: clip2clap demo."""
    if version:
        typer.echo(f"clip2clap {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    The exit code is 0 if all was done, 1 if some of it failed (of a data set, all of it), 2 with
    one line on stderr for a user's mistake (and with `--json` a document with the error), and 130
    if the run was interrupted by Ctrl-C or SIGTERM.

    Args:
        arguments: Arguments after `clip2clap`; by default those of the process.

    Raises:
        SystemExit: Always.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # users cannot fix those of libraries
    keep_freed_memory()
    gc.set_threshold(*_GC_THRESHOLDS)
    _print_any_name()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        with _sigterm_as_ctrl_c():
            status = _command().main(arguments, prog_name="clip2clap", standalone_mode=False)
    except Interrupted:
        status = 130
        _print_error("Interrupted.", None, arguments)
    except Exception as error:
        message = _mistake(error)
        if message is None:
            raise
        status = 2
        _print_error(message, getattr(error, "param", None), arguments)
    sys.exit(status if isinstance(status, int) else 0)


@functools.cache
def _command() -> Any:
    """Build all verbs, once in a process."""
    return typer.main.get_command(app)


def _print_error(message: str, param: str | None, arguments: list[str]) -> None:
    typer.echo(f"error: {message}", err=True)
    if "--json" in arguments:
        typer.echo(json_document(error={"message": message, "param": param}))


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """End a run on SIGTERM as on Ctrl-C, so that it keeps what is finished."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_any_name() -> None:
    """Write file names that stdout cannot encode as their bytes, or escaped."""

    def replace_name(error: UnicodeError) -> tuple[str | bytes, int]:
        assert isinstance(error, UnicodeEncodeError)
        try:
            return codecs.lookup_error("surrogateescape")(error)
        except UnicodeEncodeError:
            return codecs.lookup_error("backslashreplace")(error)

    codecs.register_error("clip2clap", replace_name)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="clip2clap")


def _mistake(error: Exception) -> str | None:
    """Return an error that the user can fix in one line, or None for any other."""
    # typer's own errors derive from click's in older versions and from its own copy in newer.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return one_line(_plain(format_message(), error.__cause__), limit=None)
    is_users = isinstance(error, UserError)
    if not is_users or "torchvision" in _with_causes(error):
        # A torchvision that does not fit torch breaks imports far from here: name it instead.
        from clip2clap.cli.diagnostics import broken_companions

        for problem in broken_companions():
            return str(problem)
    if is_users:
        return one_line(error, limit=None)
    is_full = isinstance(error, OSError) and error.errno in FULL_DISK_ERRORS
    if is_full or any(os.strerror(code) in _with_causes(error) for code in FULL_DISK_ERRORS):
        name = getattr(error, "filename", None) or "the output"
        return one_line(
            f"There is no space left to write {name}. Free some, or write elsewhere; the same "
            "command then continues or starts again.",
            limit=None,
        )
    if isinstance(error, OSError):
        return one_line(error, limit=None)
    if is_out_of_memory(error):
        return (
            "There is not enough memory. Lower --batch-size or the length of the audio, or use "
            "--dtype bf16 if the models are not in it."
        )
    return None


def _plain(message: str, cause: BaseException | None) -> str:
    """Return a message of typer's, which passes on pydantic's, in the words of the other errors."""
    given = [each["input"] for each in getattr(cause, "errors", list)()]
    got = f", got {given[0]!r}." if given else "."
    return re.sub(
        r"Input should be (a valid \w+), unable.*",
        lambda found: f"expected {found[1]}{got}",
        message.replace("Value error, ", ""),
    )


def _with_causes(error: BaseException | None) -> str:
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(messages)
