"""Former names of functions of `media.images`."""

from clip2clap.media.images import to_images as to_pictures
from clip2clap.media.images import to_pixels as to_pixels

__all__ = ["to_pictures", "to_pixels"]
