"""Atomic writes, unused file names, files of a folder, and the look of addresses."""

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from clip2clap.core.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FULL_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, a quota or a file that cannot grow."""

MANIFEST_FILE = "manifest.jsonl"
"""Name of the manifest of a folder of generated audio."""

MANIFEST_BEGINNING = b'{"version": '
"""How each line of it begins."""

PAGE_FOLDER = "page"
"""Name of the folder beside a page that has its pictures."""

SPECTROGRAM_ENDING = "-spectrogram.png"
"""What follows the name of an audio file in that of its spectrogram."""

_PAGE_PICTURE = re.compile(r"[0-9a-f]{16}\.webp")
_POINTER = b"version https://git-lfs.github.com/spec/"
_PROBE_BYTES = 2**16
# File systems limit names to 255 bytes; a number may be added.
_MAX_NAME_BYTES = 248


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replace a file atomically, once the block has ended without an error.

    A reader sees the old file or the new one. Threads and processes may write the same file at
    once: one of them wins. What a killed process left of its file is removed by the next one that
    writes into the folder, which must exist.

    Yields:
        Path to write to, in a hidden folder beside the file, which is removed with all that a
        library writes there for itself; its name is short, whatever that of the file.

    Raises:
        OSError: If the disk is full, whatever but a `UserError` the block raises then. Errors of
            writing name `path`.
    """
    _remove_abandoned(path.parent.absolute())
    digest = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    scratch = path.with_name(f".{digest}-{os.getpid()}-{threading.get_ident()}.part")
    partial = scratch / "file"
    places = os.fspath(scratch), os.fspath(partial)
    try:
        with _locked_folder(scratch):
            yield partial
            os.replace(partial, path)
    except UserError:  # of what the block reads, not of writing
        raise
    except Exception as error:
        code = _write_error(partial)
        if code is None and isinstance(error, OSError) and error.filename in places:
            code = error.errno
        if code is None:
            raise
        raise OSError(code, os.strerror(code), os.fspath(path)) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_error(partial: Path) -> int | None:
    """Return the error of writing a block more, for libraries hide that the disk is full."""
    try:
        with partial.open("ab", buffering=0) as file:
            file.write(bytes(_PROBE_BYTES))
            os.fsync(file)
    except OSError as error:
        return error.errno if error.errno in FULL_DISK_ERRORS else None
    return None


def save_tensors(
    tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Replace a safetensors file atomically, as `replacing` does.

    Other users may read the file if they may read others in the folder, unlike what
    `safetensors.torch.save_file` writes.
    """
    from safetensors.torch import save_file

    with replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(dict(tensors), partial, metadata)
        partial.chmod(mode)


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[None]:
    """Create a folder and lock it; a killed process loses its lock."""
    path.mkdir(exist_ok=True)
    with _locked(path, os.O_RDONLY):
        path.mkdir(exist_ok=True)  # another process may have removed it before it was locked
        yield


def _remove_unlocked(path: Path) -> None:
    """Remove a file or folder that no process has locked; none, where there are no locks."""
    if fcntl is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def locked(path: Path) -> contextlib.AbstractContextManager[None]:
    """Lock a file, which is created, while it is written; a killed process loses its lock."""
    return _locked(path, os.O_CREAT | os.O_RDWR)


@contextlib.contextmanager
def _locked(path: Path, flags: int) -> Iterator[None]:
    """Open a file or folder with some flags, and lock it, where there are locks."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, flags, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, *, shared: bool = False) -> None:
    """Remove what killed runs left half written in a folder.

    Args:
        folder: Folder that no other run may write to, or a shared one.
        shared: Whether others may be writing: only what `replacing` wrote and none has locked goes.
    """
    for path in folder.glob(".*.part"):
        if not shared:
            _remove(path)
        elif re.fullmatch(r"\.[0-9a-f]{16}-\d+-\d+\.part", path.name):
            _remove_unlocked(path)


# Once per process and folder.
_remove_abandoned = functools.cache(functools.partial(remove_leftovers, shared=True))


def free_stem(
    folder: Path,
    stem: str,
    suffixes: Sequence[str],
    *,
    taken: dict[str, int],
    overwrite: bool = False,
) -> str:
    """Return `stem`, or `stem-2`, `stem-3` and so on, for files of these suffixes in a folder.

    It is short enough for the file system, and neither taken nor, unless existing files may be
    replaced, the stem of one. It is added to `taken`, whose keys are case-folded, since some file
    systems ignore case; the values are the last numbers of stems, so that any number of files of
    one stem are named without trying those before.
    """
    room = _MAX_NAME_BYTES - max(len(os.fsencode(suffix)) for suffix in suffixes)
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    number = taken.get(stem.casefold(), 1)
    candidate = stem if number == 1 else f"{stem}-{number}"
    while candidate.casefold() in taken or (
        not overwrite
        and any(os.path.lexists(folder / f"{candidate}{suffix}") for suffix in suffixes)
    ):
        number += 1
        candidate = f"{stem}-{number}"
    taken.setdefault(candidate.casefold(), 1)
    taken[stem.casefold()] = number
    return candidate


def as_path(name: str | Path) -> Path:
    """Return the path that a user named, `~` expanded.

    Raises:
        UserError: If no file can have the name, since it is too long, say.

    Examples:
        >>> as_path("a/dog.jpg").name
        'dog.jpg'
    """
    path = Path(os.path.expanduser(name))
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{one_line(name)} can't be opened: {reason}.") from error
    return path


def check_no_pointer(
    file: BinaryIO, name: object, error_class: type[UserError] = UserError
) -> None:
    """Raise for what Git LFS leaves in place of a file that was not pulled; rewind any other."""
    start = file.read(len(_POINTER))
    file.seek(0)
    if start == _POINTER:
        raise error_class(f"{name} is a Git LFS pointer, not the file. Run: git lfs pull")


def is_url(source: str) -> bool:
    """Return True for an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def is_local_url(source: str) -> bool:
    """Return True for an http(s) URL of a server on this machine."""
    try:
        return is_url(source) and urlsplit(source).hostname in ("localhost", "127.0.0.1", "::1")
    except ValueError:  # a bracket that is never closed
        return False


def expand_inputs(
    inputs: Sequence[str],
    suffixes: Collection[str],
    what: str,
    *,
    recursive: bool = False,
    named: Collection[str] = (),
) -> Iterator[str]:
    """Yield files and URLs, with folders and patterns replaced by the files in them, in order.

    An input that does not exist is yielded as it is, so that reading it gives the reason.

    Args:
        inputs: Files, http(s) URLs, folders, and patterns such as `photos/**/*.jpg`.
        suffixes: Suffixes of the files in folders, in lower case.
        what: What these files are, for errors: "image".
        recursive: Whether to search the subfolders of folders, too.
        named: Further suffixes of files that patterns find.

    Raises:
        UserError: If none of the inputs exists, or a folder or a pattern has no such file.

    Examples:
        >>> list(expand_inputs(["dog.jpg", "https://example.org/cat.jpg"], {".jpg"}, "image"))
        ['dog.jpg', 'https://example.org/cat.jpg']
    """
    found = [_matches(name, (*suffixes, *named), what) for name in inputs]
    if inputs and not any(found):
        raise UserError(f"{inputs[0]} does not exist.", param="inputs")
    for name, paths in zip(inputs, found, strict=True):
        for path in paths or [name]:
            if is_url(path) or not as_path(path).is_dir():
                yield path
            else:
                yield from _files_in(path, suffixes, what, recursive)


def matching_paths(pattern: str) -> list[str]:
    """Return the paths that match a pattern, in order; `**` stands for any folders.

    Raises:
        UserError: If the pattern has more folders than Python's `glob` can follow.
    """
    try:
        return sorted(glob.iglob(pattern, recursive=True))
    except RecursionError as error:
        shown = one_line(pattern, limit=80)
        raise UserError(f"{shown} has too many folders for a pattern.") from error


def _matches(name: str, suffixes: tuple[str, ...], what: str) -> list[str]:
    """Return an input if it exists, or the files that match it as a pattern."""
    if is_url(name) or as_path(name).exists():
        return [name]
    if not glob.has_magic(name):
        return []
    matches = matching_paths(str(as_path(name)))
    drawings = _find_drawings(map(Path, matches))
    chosen = [
        each for each in matches if each.lower().endswith(suffixes) and Path(each) not in drawings
    ]
    if not chosen:
        raise UserError(f"No {what} matches {name}.", param="inputs")
    return chosen


def _files_in(name: str, suffixes: Collection[str], what: str, recursive: bool) -> Iterator[str]:
    """Yield the files of a folder, and of its subfolders; raise if there is none."""
    folder, empty = as_path(name), True
    inside: Iterable[Path] = visible_folders(folder) if recursive else [folder]
    for each in inside:
        for path in visible_files(each, suffixes):
            empty = False
            yield str(path)
    if empty:
        searched = "nor do its subfolders" if recursive else "its subfolders are not searched"
        raise UserError(
            f"The folder {name} holds no {what} ({', '.join(sorted(suffixes))}); {searched}.",
            param="inputs",
        )


def visible_files(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Return the files of a folder, sorted by name, without its subfolders.

    Hidden files are left out, such as the `._dog.jpg` that macOS writes beside `dog.jpg`, the
    pictures and spectrograms that runs of `image-to-audio` drew, and files of other suffixes (in
    lower case), if some are given.
    """
    found = [
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and (suffixes is None or path.suffix.lower() in suffixes)
        and path.is_file()
    ]
    drawings = _find_drawings(found)
    return sorted((path for path in found if path not in drawings), key=lambda path: path.name)


def _find_drawings(paths: Iterable[Path]) -> set[Path]:
    """Return those paths that were drawn of generated audio: a page's pictures, and spectrograms.

    A run on a folder that an earlier one wrote into would otherwise take them for images.
    """
    is_beside_page = functools.cache(_is_beside_page)
    spectrograms = functools.cache(lambda folder: {*_spectrograms(folder)})

    def is_drawing(path: Path) -> bool:
        if _PAGE_PICTURE.fullmatch(path.name):
            return is_beside_page(path.parent.absolute())
        # Those of candidates, which are in a subfolder, are in the manifest above.
        return path.name.endswith(SPECTROGRAM_ENDING) and any(
            path.absolute() in spectrograms(folder) for folder in path.absolute().parents[:2]
        )

    return {path for path in paths if is_drawing(path)}


def _is_beside_page(folder: Path) -> bool:
    """Return True for the folder of a page's pictures."""
    above = folder.parent
    return folder.name == PAGE_FOLDER and (
        (above / MANIFEST_FILE).exists() or any(above.glob("*.html"))
    )


def _spectrograms(folder: Path) -> Iterator[Path]:
    """Yield the spectrograms that the manifest of a folder lists."""
    with contextlib.suppress(OSError), (folder / MANIFEST_FILE).open("rb") as file:
        if file.read(len(MANIFEST_BEGINNING)) != MANIFEST_BEGINNING:
            return
        file.seek(0)
        for line in file:
            with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError):
                yield from (folder / each["spectrogram"] for each in json.loads(line)["outputs"])


def visible_folders(
    folder: Path, on_error: Callable[[OSError], object] | None = None
) -> Iterator[Path]:
    """Yield a folder and its subfolders, each before its own, sorted by name.

    Hidden ones are left out. Links to folders come last; each folder is yielded once, so that
    links that lead back end. A folder that cannot be read raises, unless its error is called for.
    """
    seen: set[tuple[int, int]] = set()
    pending, links = [folder], []
    while pending or links:
        current = pending.pop() if pending else links.pop(0)
        try:
            status = current.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            inside = [p for p in current.iterdir() if not p.name.startswith(".") and p.is_dir()]
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        seen.add((status.st_dev, status.st_ino))
        yield current
        inside.sort(key=lambda path: path.name)
        pending += [path for path in reversed(inside) if not path.is_symlink()]
        links += [path for path in inside if path.is_symlink()]
