"""Output folders: errors of writing, and one run at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import remove_leftovers

LOCK_FILE = ".lock"


@contextmanager
def writing_to(folder: Path, *, param: str = "output") -> Iterator[None]:
    """Create a folder to write to; raises `UserError` where the block cannot write."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; give the folder to write into.", param=param)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(
            f"{folder} can't be written to: {reason}. Make room, or choose another folder.",
            param=param,
        ) from error


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, and remove what killed ones left in it half written.

    A folder that was not there is left only if something was written into it.

    Raises:
        UserError: If another run is writing to the folder, or it cannot be written to.
    """
    is_new = not folder.exists()
    with writing_to(folder):
        lock = FileLock(folder / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise UserError(
                f"Another run is writing to {folder}. Wait for it, or give another folder.",
                param="output",
            ) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        (folder / LOCK_FILE).unlink(missing_ok=True)
        lock.release()
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def check_unused(folder: Path) -> None:
    """Raise the error of `sole_run`, without leaving a trace in the folder."""
    if (folder / LOCK_FILE).exists():
        with sole_run(folder):
            pass
