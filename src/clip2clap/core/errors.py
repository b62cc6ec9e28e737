"""The error classes of users' mistakes, checks, and the folding of an error to one line."""

import math
import re
from numbers import Integral, Real
from typing import TypeGuard

# Words of torch on the CPU, and on GPUs.
_NO_MEMORY = ("can't allocate memory", "out of memory")


class UserError(ValueError):
    """Error that the user can fix: one line with what was wrong, what was expected, and the fix.

    Args:
        message: The line. It names parameters (`split="test"`), never command-line flags.
        param: Name of the parameter at fault; the command line renders it as its own flag.
    """

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        # Names of files in it may have line breaks.
        super().__init__(one_line(message, limit=None) if message else "")
        self.param = param


class CheckpointError(UserError):
    """Error of a checkpoint that was found but cannot be loaded as it is."""


class ModelNotFoundError(UserError, FileNotFoundError):
    """Error of a checkpoint that is neither on disk nor on the hub."""


class HubUnreachableError(ModelNotFoundError):
    """Error of a checkpoint that is not on disk while the hub cannot be reached."""


class MissingExtraError(UserError, ImportError):
    """Error of a feature that needs a package which is not installed."""


class InterruptedCallError(RuntimeError):
    """Error of a pipeline's call that `interrupt` stopped; it has no output.

    Examples:
        >>> from clip2clap import ImageToAudioPipeline, InterruptedCallError
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> try:
        ...     _ = pipe("dog.jpg", callback_on_step_end=lambda pipe, *_: pipe.interrupt())
        ... except InterruptedCallError:
        ...     print("stopped")
        stopped
    """


def is_integer(value: object) -> TypeGuard[int]:
    """Return True for an integer of Python or NumPy, which is no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return True for a finite real number of Python or NumPy, which is no truth value."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return abs(value) < math.inf  # pyright: ignore[reportOperatorIssue]


def expect(holds: object, param: str, expected: str, value: object) -> None:
    """Raise a `UserError` that names a parameter unless a condition holds.

    Examples:
        >>> expect(8 > 0, "batch_size", "a positive integer", 8)
    """
    if not holds:
        raise UserError(f"Expected {param} to be {expected}, got {value!r}.", param=param)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True for an error of Python, or of torch on the CPU or a GPU, that memory lacked."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def one_line(error: object, *, limit: int | None = 300) -> str:
    """Fold an exception or its message to one printable line, of at most `limit` characters.

    Every run of white space becomes one space, and other control characters are escaped. An empty
    message becomes the exception's class name.

    Examples:
        >>> one_line("Broken checkpoint:  weights   missing.")
        'Broken checkpoint: weights missing.'
    """
    message = printable(" ".join(str(error).split())) or type(error).__name__
    if limit is None or len(message) <= limit:
        return message
    return message[: limit - 1] + "…"


def with_article(name: str) -> str:
    """Return the name of a class with its article.

    Examples:
        >>> with_article("AudioLDMPipeline")
        'an AudioLDMPipeline'
    """
    # A U is pronounced as in UNet.
    return f"{'an' if name[:1] in set('AEIOaeio') else 'a'} {name}"


def is_utf8(text: str) -> bool:
    """Return False for a text with surrogates, as which bytes that are not UTF-8 are read."""
    return re.search("[\ud800-\udfff]", text) is None


def printable(text: str) -> str:
    r"""Escape control characters and undecodable bytes, which file names may have.

    Examples:
        >>> print(printable("red\x1b[31m"))
        red\x1b[31m
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
