"""Images as they develop: numbered frames, a film, and all files of a run as one zip."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clip2clap.cli.outputs import Destination
from clip2clap.core.files import free_stem, replacing

# Frames that are kept for a film.
_MOST_FRAMES = 240


class Recorder:
    """Recorder of one image as it develops.

    Args:
        stem: File of the finished image, without its suffix: frames are written into a folder of
            this name and `-frames`.
        options: Options of the verb: `save_every` and `steps_film`.
        steps: Number of steps, of which a film has at most some hundreds; by default
            `num_iterations` of the options.
    """

    def __init__(self, stem: Path, options: Any, steps: int | None = None):
        self.frames: list[Any] = []
        self.files: list[Path] = []
        self._folder = stem.with_name(f"{stem.name}-frames")
        self._every, self._film = options.save_every, options.steps_film
        self._stride = -(-(steps or options.num_iterations) // _MOST_FRAMES)

    def wants(self, step: int) -> bool:
        """Return True if the image after a step, from 1, is needed."""
        is_frame = bool(self._every) and step % self._every == 0
        return is_frame or (self._film and step % self._stride == 0)

    def add(self, step: int, image: Any) -> None:
        """Add the image after a step."""
        from clip2clap.media.images import write_image

        if self._film and step % self._stride == 0:
            self.frames.append(image)
        if self._every and step % self._every == 0:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"{step:05d}.png"
            write_image(path, image)
            self.files.append(path)


@dataclass
class Outputs:
    """Files of a run, and what a film of it is made of."""

    files: list[Path] = field(default_factory=list)
    developments: list[Any] = field(default_factory=list)

    def add(
        self, recorder: Recorder, path: Path, beside: Path, image: Any, audio: str | None
    ) -> None:
        """Add a finished image with the file beside it, its frames, and the audio it is made of."""
        self.files += [path, beside, *recorder.files]
        if recorder.frames:
            from clip2clap.inference.film.development import Development

            self.developments.append(Development([*recorder.frames, image], audio))

    def write_extras(self, options: Any, destination: Destination) -> dict[str, str]:
        """Write the film and the zip that are wanted, and return their paths by name."""
        extras: dict[str, str] = {}
        if not self.files:
            return extras
        folder = destination.folder

        def unused(default: str, suffix: str) -> Path:
            stem, overwrite = destination.stem or default, destination.overwrite
            return folder / (
                free_stem(folder, stem, [suffix], taken={}, overwrite=overwrite) + suffix
            )

        if options.steps_film and self.developments:
            from clip2clap.inference.film.development import make_development_film

            film = unused("film", ".mp4")
            make_development_film(film, self.developments)
            self.files.append(film)
            extras["film"] = str(film)
        if options.zip:
            archive = unused("all", ".zip")
            with replacing(archive) as partial, zipfile.ZipFile(partial, "w") as packed:
                for file in self.files:
                    packed.write(file, file.relative_to(folder))
            extras["zip_file"] = str(archive)
        return extras
