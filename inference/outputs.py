"""Outputs of the pipelines."""

from dataclasses import dataclass

import numpy as np
from diffusers.utils import BaseOutput
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass
class ImageToAudioOutput(BaseOutput):
    """Output of `ImageToAudioPipeline`.

    Examples:
        >>> from clip2clap import ImageToAudioPipeline
        >>> pipe = ImageToAudioPipeline.from_pretrained("demo")
        >>> output = pipe("dog.jpg", num_inference_steps=1, num_candidates=2)
        >>> output.audios.shape, output.sampling_rate, output.audio_embeds.shape
        ((1, ...), ..., torch.Size([1, 512]))
    """

    audios: NDArray[np.float32] | Tensor
    """Waveforms, shape (n * num_variations, samples), float32, in [-1, 1]; an item's side by
    side, the most similar to its embedding first."""

    sampling_rate: int
    """Sampling rate in Hz."""

    audio_embeds: Tensor
    """CLAP embeddings they were generated from, shape (n * num_variations, d), float32."""

    similarities: Tensor | None = None
    """Cosine similarity of every candidate, shape (n, num_candidates); None for one candidate."""


@dataclass
class AudioToImageOutput(BaseOutput):
    """Output of `AudioToImagePipeline`.

    Examples:
        >>> from clip2clap import AudioToImagePipeline
        >>> pipe = AudioToImagePipeline.from_pretrained("demo")
        >>> output = pipe("bark.wav", num_inference_steps=1, num_candidates=2)
        >>> len(output.images), output.similarities.shape
        (2, torch.Size([1, 2]))
    """

    images: list[Image.Image] | NDArray[np.float32] | Tensor
    """Images, an item's candidates side by side: PIL images, an array (n, height, width, 3) or a
    tensor (n, 3, height, width) in [0, 1], or latents (n, channels, rows, columns)."""

    image_embeds: Tensor
    """CLIP embedding of each item, shape (n, d), float32, unit norm, on the CPU."""

    similarities: Tensor | None = None
    """Cosine similarities of the images' CLIP embeddings to those of their items, shape
    (n, num_candidates); None without a CLIP."""

    prompts: list[str] | None = None
    """Prompt of each item, where the audio was described in words."""
