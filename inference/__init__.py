"""Generate from translated vectors."""

from clip2clap.inference.audio_to_image import AudioToImageOutput, AudioToImagePipeline
from clip2clap.inference.canvas import Canvas
from clip2clap.inference.decoder_checkpoint import IPAdapterWeights
from clip2clap.inference.embedding_memory import EmbeddingMemory
from clip2clap.inference.few_steps import few_step_scheduler
from clip2clap.inference.film import DecodedFrames, Film, FilmOptions, PaintedFrames, make_film
from clip2clap.inference.generator_checkpoint import fastest_dtype
from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline
from clip2clap.inference.mixing import mix_embeds
from clip2clap.inference.negative_embedding import LearnedNegativeEmbedding
from clip2clap.inference.painting import Painted, Painting, PaintingOptions, Target, paint
from clip2clap.inference.patch_autoencoder import PatchAutoencoder
from clip2clap.inference.picture_decoders import PictureDecoder
from clip2clap.inference.ranking import rank_candidates
from clip2clap.inference.spectral_vocoder import SpectralVocoder

__all__ = [
    "AudioToImageOutput",
    "AudioToImagePipeline",
    "Canvas",
    "DecodedFrames",
    "EmbeddingMemory",
    "Film",
    "FilmOptions",
    "IPAdapterWeights",
    "ImageToAudioOutput",
    "ImageToAudioPipeline",
    "LearnedNegativeEmbedding",
    "Painted",
    "PaintedFrames",
    "Painting",
    "PaintingOptions",
    "PatchAutoencoder",
    "PictureDecoder",
    "SpectralVocoder",
    "Target",
    "fastest_dtype",
    "few_step_scheduler",
    "make_film",
    "mix_embeds",
    "paint",
    "rank_candidates",
]
