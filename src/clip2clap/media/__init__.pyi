from .audio import load_audio, read_tags, stream_audio
from .images import load_image, write_image
from .writing import AudioFileOptions, WrittenAudio, write_audio

__all__ = [
    "AudioFileOptions",
    "WrittenAudio",
    "load_audio",
    "load_image",
    "read_tags",
    "stream_audio",
    "write_audio",
    "write_image",
]
