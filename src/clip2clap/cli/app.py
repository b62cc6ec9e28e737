"""The `clip2clap` command: one verb a job.

Nothing slow is imported here or at the top of a verb's module, so that help is instant.
"""

import sys
import warnings
from typing import Annotated

import typer
from rich.console import Console

from clip2clap.cli.audio_to_image import audio_to_image
from clip2clap.cli.demo import demo
from clip2clap.cli.doctor import doctor
from clip2clap.cli.evaluate import evaluate
from clip2clap.cli.extract import extract
from clip2clap.cli.fit import fit
from clip2clap.cli.image_to_audio import image_to_audio
from clip2clap.cli.norms import norms
from clip2clap.cli.options import OptionError
from clip2clap.cli.paint import paint
from clip2clap.cli.sweep import sweep
from clip2clap.cli.train import train
from clip2clap.core.allocator import keep_freed_memory
from clip2clap.core.errors import one_line
from clip2clap.core.version import __version__

# What torch says on the processor, and on GPUs.
_OUT_OF_MEMORY = ("can't allocate memory", "out of memory")

app = typer.Typer(
    name="clip2clap",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo)
app.command()(image_to_audio)
app.command()(audio_to_image)
app.command()(paint)
app.command()(extract)
app.command()(norms)
app.command()(train)
app.command()(fit)
app.command()(evaluate)
app.command()(sweep)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def clip2clap(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Turn pictures into sound, and sound into pictures. To begin: clip2clap demo."""
    if version:
        typer.echo(f"clip2clap {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Ends with exit code 0 if all was done, 1 if some of it failed, 2 and one line on stderr for
    a user's mistake, 130 if it was interrupted.

    Args:
        arguments: What follows `clip2clap` on the command line; by default the process's own.

    Raises:
        SystemExit: Always.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # those of libraries are nothing a user can mend
    keep_freed_memory()
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="clip2clap", standalone_mode=False)
    except Exception as error:
        message = _mistake(error)
        if message is None:
            raise
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(
            f"error: {message}"
        )
        status = 2
    sys.exit(status if isinstance(status, int) else 0)


def _mistake(error: Exception) -> str | None:
    """Put an error that the user can mend into one line; None if it is a mistake of ours."""
    # typer's own errors derive from click's in older versions and from its own copy in newer.
    format_message = getattr(error, "format_message", None)
    if format_message is not None:
        return one_line(format_message(), limit=None)
    is_users = isinstance(error, OptionError) or _is_user_error(error)
    if not is_users or "torchvision" in _with_causes(error):
        # A torchvision that does not fit torch breaks imports far from here: name it instead.
        from clip2clap.cli.diagnostics import broken_companions

        for problem in broken_companions():
            return str(problem)
    if is_users or isinstance(error, OSError):
        return one_line(error, limit=None)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY):
        return "There is not enough memory. Lower --batch-size or --seconds, or use --dtype bf16."
    return None


def _is_user_error(error: Exception) -> bool:
    # Not imported at the top: it lives beside the encoders, which are slow to import.
    errors = sys.modules.get("clip2clap.core.errors")
    return errors is not None and isinstance(error, errors.UserError)


def _with_causes(error: BaseException | None) -> str:
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__ or error.__context__
    return " ".join(messages)
