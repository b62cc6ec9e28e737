"""Where sounds and pictures are written, and under which names."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from clip2clap.cli.options import OptionError, require

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FormatName = Literal["wav", "flac", "ogg"]
PictureFormatName = Literal["png", "jpg", "webp"]

_OTHER_SOUND_SUFFIXES = (".mp3", ".m4a", ".aac", ".aif", ".aiff", ".opus", ".wma")
_OTHER_PICTURE_SUFFIXES = (".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".svg", ".pdf")


@dataclass
class Destination:
    """Where sounds are written, and under which names."""

    folder: Path
    """The folder they lie in."""

    format: FormatName
    """What they are written as."""

    stem: str | None
    """The one file's name without its suffix, if the user gave it."""

    overwrite: bool
    """Whether files that exist are replaced; otherwise the new ones get another name."""

    spectrogram: bool
    """Whether a spectrogram is drawn beside each sound."""

    taken: set[str] = field(default_factory=set)
    """The names given away in this run, which are not given twice even with `overwrite`."""

    def write(self, stem: str, waveform: "np.ndarray", sampling_rate: int) -> dict[str, str]:
        """Write a sound, and its spectrogram if wanted.

        Args:
            stem: The name wanted, without a suffix; the one the user gave goes before it.
            waveform: Samples, shape (samples,).
            sampling_rate: Samples a second, in Hz.

        Returns:
            The path of the `output`, and of the `spectrogram` if there is one.
        """
        from clip2clap.core.files import free_stem
        from clip2clap.media.audio_writer import write_audio

        suffixes = {"output": f".{self.format}"}
        if self.spectrogram:
            suffixes["spectrogram"] = "-spectrogram.png"
        stem = free_stem(
            self.folder,
            self.stem or stem,
            [] if self.overwrite else list(suffixes.values()),
            taken=self.taken,
        )
        self.taken.add(stem.casefold())
        paths = {what: self.folder / f"{stem}{suffix}" for what, suffix in suffixes.items()}
        write_audio(paths["output"], waveform, sampling_rate, format=self.format)
        if self.spectrogram:
            from clip2clap.media.spectrogram import write_spectrogram

            write_spectrogram(paths["spectrogram"], waveform, sampling_rate, title=stem)
        return {what: str(path) for what, path in paths.items()}


def choose_destination(
    output: Path,
    *,
    count: int,
    format: FormatName | None,
    overwrite: bool,
    spectrogram: bool,
) -> Destination:
    """Tell a folder from a file name, and make the folder.

    Raises:
        OptionError: If the name does not suit the format or the number of photographs, or
            nothing can be written there.
    """
    place = _choose_place(
        output,
        count=count,
        inputs="photographs",
        formats=get_args(FormatName),
        others=_OTHER_SOUND_SUFFIXES,
        format=format,
    )
    return Destination(*place, overwrite, spectrogram)


@dataclass
class PictureDestination:
    """Where pictures are written, and under which names."""

    folder: Path
    """The folder they lie in."""

    format: PictureFormatName
    """What they are written as."""

    stem: str | None
    """The one file's name without its suffix, if the user gave it."""

    overwrite: bool
    """Whether files that exist are replaced; otherwise the new ones get another name."""

    grid: bool
    """Whether an item's pictures are also written side by side in one."""

    taken: set[str] = field(default_factory=set)
    """The names given away in this run, which are not given twice even with `overwrite`."""

    def reserve(self, stem: str, ends: Sequence[str]) -> str:
        """Give away a name that is free, for files that are written as they come.

        Args:
            stem: The name wanted, without a suffix; the one the user gave goes before it.
            ends: What follows the stem in each file.

        Returns:
            The stem to use.
        """
        from clip2clap.core.files import free_stem

        stem = free_stem(
            self.folder, self.stem or stem, [] if self.overwrite else ends, taken=self.taken
        )
        self.taken.add(stem.casefold())
        return stem

    def write(self, stem: str, pictures: "Sequence[Image]") -> tuple[list[Path], Path | None]:
        """Write an item's pictures.

        Args:
            stem: The name wanted, without a suffix; the one the user gave goes before it.
            pictures: In the order of their numbers; a single one bears none.

        Returns:
            The pictures' paths, and the grid's if there is one.
        """
        from clip2clap.media.image_writer import arrange, write_image

        numbers = [f"-{number}" for number in range(1, len(pictures) + 1)]
        ends = [f"{end}.{self.format}" for end in (numbers if len(pictures) > 1 else [""])]
        grid_end = f"-grid.{self.format}"
        stem = self.reserve(stem, [*ends, *([grid_end] if self.grid else [])])
        paths = [self.folder / f"{stem}{end}" for end in ends]
        for path, picture in zip(paths, pictures, strict=True):
            write_image(path, picture)
        if not self.grid:
            return paths, None
        grid = self.folder / f"{stem}{grid_end}"
        write_image(grid, arrange(pictures))
        return paths, grid


def choose_picture_destination(
    output: Path,
    *,
    count: int,
    format: PictureFormatName | None,
    overwrite: bool,
    grid: bool,
) -> PictureDestination:
    """Tell a folder from a file name, and make the folder.

    Raises:
        OptionError: If the name does not suit the format or the number of recordings, or
            nothing can be written there.
    """
    place = _choose_place(
        output,
        count=count,
        inputs="recordings",
        formats=get_args(PictureFormatName),
        others=_OTHER_PICTURE_SUFFIXES,
        format=format,
    )
    return PictureDestination(*place, overwrite, grid)


def _choose_place(
    output: Path,
    *,
    count: int,
    inputs: str,
    formats: Sequence[str],
    others: Sequence[str],
    format: str | None,
) -> tuple[Path, Any, str | None]:
    """Give the folder, made if need be, the format, and the stem if `output` names one file."""
    suffix = output.suffix.lower()
    is_file_name = suffix.lstrip(".") in formats and not output.is_dir()
    if not is_file_name:
        endings = [f".{known}" for known in formats]
        require(
            suffix not in others,
            "--output",
            f"{suffix} cannot be written. Use {', '.join(endings[:-1])} or {endings[-1]}, or name "
            "a folder.",
        )
        require(
            not output.exists() or output.is_dir(), "--output", f"{output} is a file, not a folder."
        )
        folder, stem = output, None
    else:
        require(
            count == 1,
            "--output",
            f"{output.name} is one file, and there are {count} {inputs}. Name a folder.",
        )
        require(
            format is None or f".{format}" == suffix,
            "--format",
            f"{output.name} does not end in .{format}. Leave --format out, or change the name.",
        )
        folder, stem = output.parent, output.stem
        format = suffix.lstrip(".")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}.") from error
    return folder, format or formats[0], stem
