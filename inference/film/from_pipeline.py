"""Parts of a film that an audio-to-image pipeline makes: its size, embeddings and frames."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.inference.film.frames import DecodedFrames, MakeFrames, PaintedFrames
from clip2clap.inference.film.options import FilmOptions
from clip2clap.inference.film.path import Embed
from clip2clap.inference.painting.canvas import Canvas
from clip2clap.inference.painting.paint import PaintingOptions, default_cut_size
from clip2clap.media.video import FILM_RATE

if TYPE_CHECKING:
    from clip2clap.embeddings.encoders.speech import SpeechEncoder

_SMALLEST_SIDE = 256


def film_size(height: int, width: int) -> tuple[int, int]:
    """Return the width and height of a film of frames of a size; small ones are enlarged.

    Examples:
        >>> film_size(64, 96)
        (384, 256)
    """
    times = max(1, math.ceil(_SMALLEST_SIDE / min(height, width)))
    width, height = (side * times + side * times % 2 for side in (width, height))
    return width, height


def pipeline_embed(pipeline: Any, speech: "SpeechEncoder | None" = None) -> Embed:
    """Return the function that encodes windows of audio, or speech, for a pipeline's decoder."""

    def embed(waveforms: Sequence[np.ndarray]) -> Tensor:
        if speech is not None:
            return speech.encode_audio([(waveform, FILM_RATE) for waveform in waveforms])
        # Parts of a film may be silent, which the pipeline's own encode_audio refuses.
        embeds = pipeline.clap.encode_audio([(waveform, FILM_RATE) for waveform in waveforms])
        return pipeline.translate(embeds)

    return embed


def pipeline_frames(
    pipeline: Any,
    options: FilmOptions,
    *,
    seed: int = 0,
    walk_in_s: float = 0.0,
    paint_on: int = 0,
    calls: dict[str, Any] | None = None,
) -> MakeFrames:
    """Return the function that makes frames: the decoder, or painting of each from the last.

    Args:
        pipeline: Pipeline.
        options: Size and frame rate of the film.
        seed: Seed of the noise.
        walk_in_s: Period of a decoder's noise, in s; 0 for constant noise.
        paint_on: Iterations per frame of painting; 0 for the decoder.
        calls: Further arguments of the pipeline's call, among them the frames' height and width.

    Raises:
        UserError: If frames are to be painted, and the decoder has no CLIP.
    """
    if not paint_on:
        return DecodedFrames(pipeline, options, seed=seed, walk_in_s=walk_in_s, calls=calls)
    clip = pipeline.clip
    if clip is None:
        raise UserError("Painting needs the decoder's CLIP. Name a clip.", param="paint_on")
    canvas, sides = Canvas(pipeline.vae), calls or {}
    height, width = (sides.get(name, pipeline.decoder.trained_size) for name in ("height", "width"))
    generator = torch.Generator().manual_seed(seed)
    return PaintedFrames(
        canvas,
        clip,
        options,
        painting=PaintingOptions(iterations=paint_on, cut_size=default_cut_size(clip)),
        latent=canvas.noise(height, width, generator),
        seed=seed,
    )
