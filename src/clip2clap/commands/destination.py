"""Where sounds are written, and under which names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clip2clap.commands.options import OptionError, require

if TYPE_CHECKING:
    import numpy as np

FormatName = Literal["wav", "flac", "ogg"]

_FORMATS: tuple[FormatName, ...] = ("wav", "flac", "ogg")
_OTHER_SOUND_SUFFIXES = (".mp3", ".m4a", ".aac", ".aif", ".aiff", ".opus", ".wma")


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
        from clip2clap.inference.audio_files import write_audio
        from clip2clap.inference.files import free_stem

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
            from clip2clap.inference.spectrogram import write_spectrogram

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
    suffix = output.suffix.lower()
    is_file_name = suffix.lstrip(".") in _FORMATS and not output.is_dir()
    if not is_file_name:
        require(
            suffix not in _OTHER_SOUND_SUFFIXES,
            "--output",
            f"{suffix} cannot be written. Use .wav, .flac or .ogg, or name a folder.",
        )
        require(
            not output.exists() or output.is_dir(), "--output", f"{output} is a file, not a folder."
        )
        folder, stem = output, None
    else:
        require(
            count == 1,
            "--output",
            f"{output.name} is one file, and there are {count} photographs. Name a folder.",
        )
        require(
            format is None or f".{format}" == suffix,
            "--format",
            f"{output.name} does not end in .{format}. Leave --format out, or change the name.",
        )
        folder, stem = output.parent, output.stem
        format = next(known for known in _FORMATS if f".{known}" == suffix)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}.") from error
    return Destination(folder, format or "wav", stem, overwrite, spectrogram)
