from .audio_to_image import AudioToImagePipeline
from .film.make import make_film
from .film.options import FilmOptions
from .image_to_audio import ImageToAudioPipeline
from .mixing import mix_embeds
from .outputs import AudioToImageOutput, ImageToAudioOutput
from .painting.canvas import Canvas
from .painting.paint import PaintingOptions, Target, paint
from .schedulers import few_step_scheduler

__all__ = [
    "AudioToImageOutput",
    "AudioToImagePipeline",
    "Canvas",
    "FilmOptions",
    "ImageToAudioOutput",
    "ImageToAudioPipeline",
    "PaintingOptions",
    "Target",
    "few_step_scheduler",
    "make_film",
    "mix_embeds",
    "paint",
]
