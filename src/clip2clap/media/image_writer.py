"""Former names of functions of `media.images`."""

from clip2clap.media.images import image_grid as arrange
from clip2clap.media.images import write_image as write_image

__all__ = ["arrange", "write_image"]
