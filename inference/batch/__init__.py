"""Folders and tables of images into audio files, with a manifest, resumed where they were left."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
