"""Output files: unused names, and writing of audio and images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from clip2clap.cli.checks import require
from clip2clap.cli.options.generation import AudioFiles, AudioFormat, ImageFiles, ImageFormat
from clip2clap.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

_FOREIGN_SUFFIXES = {
    "audio": (".mp3", ".m4a", ".aac", ".aif", ".aiff", ".opus", ".wma"),
    "image": (".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".svg", ".pdf"),
    "film": (".mkv", ".webm", ".avi", ".mov", ".m4v", ".gif", ".mpg"),
}
_FORMATS = {"audio": get_args(AudioFormat), "image": get_args(ImageFormat), "film": ("mp4",)}


@dataclass
class Destination:
    """Folder that files are written to, under unused names."""

    folder: Path
    """The folder."""

    format: Any
    """Suffix of the files, without the dot."""

    stem: str | None
    """Name of the only file without its suffix, if it was given."""

    overwrite: bool
    """Whether existing files are replaced; otherwise new ones get another name."""

    taken: set[str] = field(default_factory=set)
    """Stems used in this run, which are unique even with `overwrite`."""

    def reserve(self, stem: str, suffixes: Sequence[str]) -> str:
        """Reserve an unused stem, and return it.

        Args:
            stem: Preferred stem, unless the only file's name was given.
            suffixes: Endings of the files to write, after the stem.
        """
        from clip2clap.core.files import free_stem

        stem = free_stem(
            self.folder, self.stem or stem, [] if self.overwrite else suffixes, taken=self.taken
        )
        self.taken.add(stem.casefold())
        return stem

    def write_audio(
        self, stem: str, waveform: "np.ndarray", sampling_rate: int, *, spectrogram: bool
    ) -> dict[str, str]:
        """Write a waveform, and its spectrogram if wanted.

        Args:
            stem: Preferred name without a suffix.
            waveform: Samples, shape (samples,).
            sampling_rate: In Hz.
            spectrogram: Whether to write a spectrogram as well.

        Returns:
            Path of the `output`, and of the `spectrogram` if there is one.
        """
        from clip2clap.media.audio import write_audio

        suffixes = {"output": f".{self.format}"}
        if spectrogram:
            suffixes["spectrogram"] = "-spectrogram.png"
        stem = self.reserve(stem, list(suffixes.values()))
        paths = {name: self.folder / f"{stem}{suffix}" for name, suffix in suffixes.items()}
        write_audio(paths["output"], waveform, sampling_rate, format=self.format)
        if spectrogram:
            from clip2clap.media.spectrogram import write_spectrogram

            write_spectrogram(paths["spectrogram"], waveform, sampling_rate, title=stem)
        return {name: str(path) for name, path in paths.items()}

    def write_images(
        self, stem: str, images: "Sequence[Image]", *, grid: bool
    ) -> tuple[list[Path], Path | None]:
        """Write the images of one input.

        Args:
            stem: Preferred name without a suffix.
            images: Images; several are numbered from 1.
            grid: Whether to write them side by side as well.

        Returns:
            Paths of the images, and of the grid if there is one.
        """
        from clip2clap.media.images import image_grid, write_image

        numbers = [f"-{number}" for number in range(1, len(images) + 1)]
        suffixes = [f"{end}.{self.format}" for end in (numbers if len(images) > 1 else [""])]
        grid_suffix = f"-grid.{self.format}"
        stem = self.reserve(stem, [*suffixes, *([grid_suffix] if grid else [])])
        paths = [self.folder / f"{stem}{suffix}" for suffix in suffixes]
        for path, image in zip(paths, images, strict=True):
            write_image(path, image)
        if not grid:
            return paths, None
        grid_path = self.folder / f"{stem}{grid_suffix}"
        write_image(grid_path, image_grid(images))
        return paths, grid_path


def audio_destination(files: AudioFiles, count: int) -> Destination:
    """Return the destination of `count` audio files; see `choose_destination`."""
    output = files.output or Path("clip2clap-image-to-audio")
    return choose_destination("audio", output, count, files.overwrite, files.audio_format)


def image_destination(files: ImageFiles, count: int) -> Destination:
    """Return the destination of the images of `count` inputs; see `choose_destination`."""
    output = files.output or Path("clip2clap-audio-to-image")
    return choose_destination("image", output, count, files.overwrite, files.image_format)


def choose_destination(
    media: str, output: Path, count: int, overwrite: bool, format: str | None = None
) -> Destination:
    """Return the destination that a path names, and create its folder.

    Args:
        media: `audio`, `image` or `film`.
        output: Folder, or a file name for a single output.
        count: Number of inputs that each have an output.
        overwrite: Whether existing files are replaced.
        format: Suffix of the files without the dot; by default that of `output`.

    Raises:
        UserError: If the path does not fit the format or the count, or cannot be written to.
    """
    formats, suffix = _FORMATS[media], output.suffix.lower()
    if suffix.lstrip(".") in formats and not output.is_dir():
        name = output.name
        require(
            count == 1,
            "output",
            f"{name} is one file, and there are {count} inputs. Name a folder.",
        )
        require(
            format is None or f".{format}" == suffix,
            f"{media}_format",
            f"{name} does not end in .{format}. Leave the format out, or change the name.",
        )
        folder, stem, format = output.parent, output.stem, suffix.lstrip(".")
    else:
        known = " or ".join(f".{each}" for each in formats).replace(" or ", ", ", len(formats) - 2)
        require(
            suffix not in _FOREIGN_SUFFIXES[media],
            "output",
            f"{suffix} cannot be written. Use {known}, or name a folder.",
        )
        folder, stem = output, None
    make_folder(folder)
    return Destination(folder, format or formats[0], stem, overwrite)


def make_folder(folder: Path) -> None:
    """Create an output folder.

    Raises:
        UserError: If it is a file or cannot be created.
    """
    require(not folder.exists() or folder.is_dir(), "output", f"{folder} is a file, not a folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror}.", param="output") from error
