"""Former home of `media.audio.write_audio`."""

from clip2clap.media.audio import write_audio as write_audio

__all__ = ["write_audio"]
