from .audio import load_audio, stream_audio, write_audio
from .images import load_image, write_image

__all__ = ["load_audio", "load_image", "stream_audio", "write_audio", "write_image"]
