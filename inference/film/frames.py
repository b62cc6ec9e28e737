"""Frames of a film: decoded or painted from embeddings, and the title card."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clip2clap.core.errors import expect
from clip2clap.inference.film.options import FilmOptions
from clip2clap.inference.painting.paint import (
    Painting,
    PaintingOptions,
    PixelEncoder,
    Surface,
    Target,
)

MakeFrames = Callable[[Tensor], np.ndarray]
"""Map from the embeddings of the next frames, shape (n, d), to the frames: RGB, uint8, shape
(n, height, width, 3). Called in order, a batch at a time."""

# The first frame starts from noise instead of the previous frame: it gets more iterations.
_FIRST_FRAME_FACTOR = 8


class DecodedFrames:
    """Frames from a decoder whose starting noise is constant or moves slowly.

    Moving noise follows a circle in the plane of two Gaussian draws, where each point is again
    such a draw.

    Args:
        pipeline: An `AudioToImagePipeline`.
        options: Size and frame rate of the film.
        seed: Seed of the noise.
        walk_in_s: Period of the noise, in seconds; 0 for constant noise.
        calls: Further arguments of the pipeline's call; without `clip_guidance_scale` frames are
            not guided by CLIP.

    Raises:
        UserError: If the period is negative.
    """

    def __init__(
        self,
        pipeline: Any,
        options: FilmOptions,
        *,
        seed: int = 0,
        walk_in_s: float = 0.0,
        calls: dict[str, Any] | None = None,
    ):
        expect(0 <= walk_in_s < math.inf, "walk_in_s", "0 or more", walk_in_s)
        self.pipeline, self.options = pipeline, options
        given = {name: value for name, value in (calls or {}).items() if value is not None}
        sides = dict.fromkeys(("height", "width"), pipeline.decoder.trained_size)
        self.calls: dict[str, Any] = {"clip_guidance_scale": 0.0, **sides, **given}
        height, width = (self.calls[name] for name in sides)
        generator = torch.Generator().manual_seed(seed)
        shape = (2, *pipeline.decoder.latent_shape(height, width))
        self._noise = torch.randn(shape, generator=generator, dtype=torch.float32)
        self._angle = 2 * math.pi / (walk_in_s * options.fps) if walk_in_s else 0.0
        self._count = 0

    def __call__(self, embeds: Tensor) -> np.ndarray:
        """Generate the next frames, one per embedding, from embeddings (n, d)."""
        angles = self._angle * torch.arange(self._count, self._count + len(embeds))
        self._count += len(embeds)
        angles = angles.view(-1, 1, 1, 1)
        latents = angles.cos() * self._noise[0] + angles.sin() * self._noise[1]
        # Latents are not ranked: ranking would be slower than generating them.
        generated = self.pipeline(
            image_embeds=embeds,
            latents=latents,
            batch_size=len(embeds),
            output_type="latent",
            **self.calls,
        ).images
        with torch.no_grad():
            pixels = self.pipeline.decoder.to_pixels(generated.to(self.pipeline.device))
        return scale_frames(pixels, self.options)


class PaintedFrames:
    """Frames painted towards their embeddings, each starting from the previous one.

    Args:
        surface: Decoder from latents to pixels, such as a `Canvas`.
        clip: CLIP that encodes pixels.
        options: Size of the film.
        painting: Painting options per frame; the first frame has more iterations.
        latent: Latent to start from, shape (1, channels, rows, columns).
        seed: Seed of the cutouts.
    """

    def __init__(
        self,
        surface: Surface,
        clip: PixelEncoder,
        options: FilmOptions,
        *,
        painting: PaintingOptions,
        latent: Tensor,
        seed: int = 0,
    ):
        self.surface, self.clip, self.options, self.painting = surface, clip, options, painting
        self._latent, self._factor = latent, _FIRST_FRAME_FACTOR
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, embeds: Tensor) -> np.ndarray:
        """Paint the next frames, one for each embedding of shape (n, d)."""
        frames = []
        for embed in embeds:
            painting = Painting(
                self.surface,
                self.clip,
                [Target(embed)],
                latent=self._latent,
                options=self.painting,
                generator=self._generator,
            )
            for _ in range(self._factor * self.painting.iterations):
                painting.step()
            self._latent, self._factor = painting.latent, 1
            with torch.no_grad():
                frames.append(scale_frames(self.surface.pixels(self._latent), self.options))
        return np.concatenate(frames)


def scale_frames(pixels: Tensor, options: FilmOptions) -> np.ndarray:
    """Scale images (n, 3, h, w) in [0, 1] to a film's size, and crop them to its shape.

    Returns:
        RGB frames, shape (n, height, width, 3), uint8.
    """
    height, width = options.height, options.width
    ratio = max(height / pixels.shape[-2], width / pixels.shape[-1])
    rows, columns = (max(1, math.ceil(side * ratio - 1e-6)) for side in pixels.shape[-2:])
    if (rows, columns) != tuple(pixels.shape[-2:]):
        pixels = torch.nn.functional.interpolate(
            pixels.float(), (rows, columns), mode="bicubic", antialias=True
        )
    top, left = (rows - height) // 2, (columns - width) // 2
    pixels = pixels[..., top : top + height, left : left + width]
    values = (pixels.clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return values.permute(0, 2, 3, 1).contiguous().numpy()


def title_card(text: str, width: int, height: int) -> np.ndarray:
    """Draw a text in white on black, as large as fits; its line ends are kept.

    Returns:
        RGB image, shape (height, width, 3), uint8.
    """
    card = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(card)
    size, align = height // 4, "center"
    while size > 6:
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.multiline_textbbox((0, 0), text, font, align=align)
        if right - left <= 0.9 * width and bottom - top <= 0.9 * height:
            break
        size = int(size * 0.9)
    font, center = ImageFont.load_default(size), (width / 2, height / 2)
    draw.multiline_text(center, text, "white", font, anchor="mm", align=align)
    return np.asarray(card)
