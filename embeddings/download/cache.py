"""Folder of downloaded images, stored by URL."""

import hashlib
import tempfile
from pathlib import Path

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.media.images import UnreadableImageError, load_image


class ImageCache:
    """Cache of image files; threads, processes and killed runs may share its folder.

    Raises:
        UserError: If the folder can't be written to.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise UserError(
                f"The cache {self.folder} can't be written to: {error.strerror}. Give another "
                "folder.",
                param="cache",
            ) from error

    def read(self, url: str) -> bytes | None:
        """Return the image file of a URL; None if it is missing or damaged."""
        path = self._path(url)
        try:
            content = path.read_bytes()
            load_image(content)
        except (FileNotFoundError, UnreadableImageError):
            # A file is damaged if the power failed before its last bytes reached the disk.
            return None
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
        return content

    def write(self, url: str, content: bytes) -> None:
        """Store the image file of a URL.

        Raises:
            UserError: If it can't be written.
        """
        path = self._path(url)
        try:
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as partial:
                partial.write_bytes(content)
        except OSError as error:
            raise UserError(
                f"{path} can't be written: {error.strerror or error}. Make room, or give another "
                "cache.",
                param="cache",
            ) from error

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / name
