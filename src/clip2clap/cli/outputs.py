"""Output files: unused names, and the folders that they are written to."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from clip2clap.cli.checks import require
from clip2clap.cli.command import until_end
from clip2clap.cli.options.audio_files import AudioFormat
from clip2clap.cli.options.generation import ImageFormat
from clip2clap.core.errors import UserError

_FOREIGN_SUFFIXES = {
    "audio": (".m4a", ".aac", ".aif", ".aiff", ".wma"),
    "image": (".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".svg", ".pdf"),
    "film": (".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif", ".mpg"),
}
_FORMATS = {"audio": get_args(AudioFormat), "image": get_args(ImageFormat), "film": ("mp4",)}


@dataclass
class Destination:
    """Folder that files are written to, under unused names.

    The format is the suffix of the files without the dot; the stem is the name of the only file, if
    it was given. Existing files are replaced only with `overwrite`; two files of one run never have
    the same name.
    """

    folder: Path
    format: Any
    stem: str | None
    overwrite: bool
    taken: dict[str, int] = field(default_factory=dict)

    def reserve(self, stem: str, suffixes: Sequence[str]) -> list[Path]:
        """Return unused paths, which differ by their endings.

        Args:
            stem: Preferred name, unless the only file's name was given.
            suffixes: Endings of the files to write, after the stem.
        """
        from clip2clap.core.files import free_stem

        stem = free_stem(
            self.folder, self.stem or stem, suffixes, taken=self.taken, overwrite=self.overwrite
        )
        return [self.folder / f"{stem}{suffix}" for suffix in suffixes]


def choose_destination(
    media: str, options: Any, count: int, *, default: str, sole: bool = False
) -> Destination:
    """Return the destination that `--output` names, and create its folder.

    Args:
        media: `audio`, `image` or `film`.
        options: Options of the verb.
        count: Number of inputs that each have an output.
        default: Folder if none is given.
        sole: Whether to keep other runs out of a folder until the verb ends.

    Raises:
        UserError: If the path does not fit the format or the count, cannot be written to, or
            another run is writing to it.
    """
    output, format = options.output or Path(default), getattr(options, f"{media}_format", None)
    formats, suffix = _FORMATS[media], output.suffix.lower()
    if suffix.lstrip(".") in formats and not output.is_dir():
        name = output.name
        one_file = f"{name} is one file, and there are {count} inputs. Name a folder."
        require(count == 1, "output", one_file)
        require(
            format is None or f".{format}" == suffix,
            f"{media}_format",
            f"{name} does not end in .{format}. Leave the format out, or change the name.",
        )
        folder, stem, format = output.parent, output.stem, suffix.lstrip(".")
    else:
        known = " or ".join(f".{each}" for each in formats).replace(" or ", ", ", len(formats) - 2)
        other = f"{suffix} cannot be written. Use {known}, or name a folder."
        require(suffix not in _FOREIGN_SUFFIXES[media], "output", other)
        folder, stem = output, None
    make_folder(folder)
    if sole and stem is None:
        keep_others_out(folder)
    return Destination(folder, format or formats[0], stem, options.overwrite)


def keep_others_out(folder: Path) -> None:
    """Create an output folder, which no other run may use until the verb ends.

    Raises:
        UserError: If another run is writing to it, or it cannot be written to.
    """
    from clip2clap.core.output_folder import sole_run

    until_end(sole_run(folder))


def make_folder(folder: Path, param: str = "output") -> None:
    """Create an output folder.

    Raises:
        UserError: If it is a file, or cannot be created or written to.
    """
    from clip2clap.core.output_folder import writing_to

    require(not folder.exists() or folder.is_dir(), param, f"{folder} is a file, not a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}.", param=param) from error
    # The name of the working directory itself is a dot.
    named = folder if folder.name else folder.absolute()
    with writing_to(named, param=param), tempfile.TemporaryFile(dir=named):
        pass
