"""Generate from translated vectors."""

from clip2clap.inference.audio_to_image import AudioToImageOutput, AudioToImagePipeline
from clip2clap.inference.decoder_checkpoint import IPAdapterWeights
from clip2clap.inference.generator_checkpoint import fastest_dtype
from clip2clap.inference.image_to_audio import (
    ImageToAudioOutput,
    ImageToAudioPipeline,
    few_step_scheduler,
)
from clip2clap.inference.mixing import mix_embeds
from clip2clap.inference.negative_embedding import LearnedNegativeEmbedding
from clip2clap.inference.picture_decoders import PictureDecoder
from clip2clap.inference.ranking import rank_candidates
from clip2clap.inference.spectral_vocoder import SpectralVocoder

__all__ = [
    "AudioToImageOutput",
    "AudioToImagePipeline",
    "IPAdapterWeights",
    "ImageToAudioOutput",
    "ImageToAudioPipeline",
    "LearnedNegativeEmbedding",
    "PictureDecoder",
    "SpectralVocoder",
    "fastest_dtype",
    "few_step_scheduler",
    "mix_embeds",
    "rank_candidates",
]
