from .audio_to_image import AudioToImageOutput, AudioToImagePipeline
from .film.film import FilmOptions, make_film
from .image_to_audio import ImageToAudioOutput, ImageToAudioPipeline
from .mixing import mix_embeds
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
