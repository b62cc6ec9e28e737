"""Paint an image: optimize a latent until its CLIP embedding is near the targets."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError, expect
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.painting.cutouts import cut_out
from clip2clap.media.images import to_images
from clip2clap.metrics.image_quality import brisque_loss

# Iterations between evaluations of the whole image, each at about the cost of an iteration.
_EVALUATE_EVERY = 10
_MAX_ITERATIONS = 1_000_000
_UNIT_TOLERANCE = 1e-2


class Surface(Protocol):
    """Differentiable decoder from latents to pixels, such as `Canvas`."""

    def pixels(self, latent: Tensor) -> Tensor:
        """Decode a latent to RGB pixels in [0, 1], shape (1, 3, h, w)."""
        ...

    def distance(self, latent: Tensor) -> Tensor:
        """Compute the distance of a latent from those the decoder was trained on."""
        ...


class PixelEncoder(Protocol):
    """Differentiable encoder of pixels, such as `ClipEncoder`."""

    def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
        """Encode pixels of shape (n, 3, h, w) in [0, 1], shape (n, d), unit norm."""
        ...


@dataclass(frozen=True)
class Target:
    """Embedding that an image is painted towards, or away from.

    Examples:
        >>> import torch
        >>> from clip2clap.inference import Target
        >>> Target(torch.tensor([0.6, 0.8]), weight=-0.5, name="rain").weight
        -0.5
    """

    embed: Tensor
    """CLIP embedding, shape (d,), unit norm."""

    weight: float = 1.0
    """Weight beside the other targets; a negative weight pushes away."""

    name: str = ""
    """Name in messages and scores."""


@dataclass(frozen=True)
class PaintingOptions:
    """Options of painting.

    Raises:
        UserError: If an option is out of range.

    Examples:
        >>> from clip2clap.inference import PaintingOptions
        >>> PaintingOptions(iterations=20, cutouts=4).step_size
        0.1
    """

    iterations: int = 150
    """Number of Adam steps."""

    step_size: float = 0.1
    """Adam's learning rate, in units of the autoencoder's own scale."""

    cutouts: int = 8
    """Cutouts per iteration; the first is always the whole image."""

    cut_size: int | None = None
    """Side of a cutout in pixels; the image's short side if None."""

    augment: bool = True
    """Mirror, rotate, shear and tint the cutouts at random."""

    total_variation: float = 1.0
    """Weight of the total variation; a larger weight gives a smoother image."""

    codebook: float = 0.0
    """Weight of `Canvas.distance`, which keeps the latent near the training distribution."""

    brisque: float = 0.0
    """Weight of BRISQUE, a measure of distortion; AudioCLIP-guided diffusion has 0.001."""

    def __post_init__(self) -> None:
        holds, expected = 1 <= self.iterations <= _MAX_ITERATIONS, f"from 1 to {_MAX_ITERATIONS:,}"
        expect(holds, "iterations", expected, self.iterations)
        expect(0 < self.step_size < math.inf, "step_size", "above 0", self.step_size)
        for name in ("cutouts", "cut_size"):
            value = getattr(self, name)
            expect(value is None or value >= 1, name, "at least 1", value)
        for name in ("total_variation", "codebook", "brisque"):
            value = getattr(self, name)
            expect(0 <= value < math.inf, name, "0 or more", value)


def default_cut_size(clip: ClipEncoder) -> int:
    """Return the cutout size at which a CLIP is fast and still accurate.

    Half the native size for a convolutional encoder, at a quarter of the cost; the native size for
    a transformer.
    """
    return clip.image_size // 2 if clip.takes_any_size else clip.image_size


@dataclass(frozen=True)
class Painted:
    """Painted image after `iteration` steps, evaluated.

    The latent is of shape (1, channels, rows, columns), and the image in mode RGB. The loss is the
    weighted distance of the whole image from the targets, and the similarities are its cosine
    similarities with each.
    """

    latent: Tensor
    image: Image.Image
    loss: float
    similarities: tuple[float, ...]
    iteration: int


class Painting:
    """Optimization of one image, step by step.

    The loss is the weighted squared angle between the embeddings of cutouts and targets (Crowson et
    al. 2022, "VQGAN-CLIP", arXiv 2204.08583); audio embeddings as targets follow Lee et al. (2022),
    "Sound-Guided Semantic Image Manipulation", arXiv 2112.00007.

    Args:
        surface: Decoder from latents to pixels.
        clip: CLIP that encodes pixels.
        targets: Targets in this CLIP's space.
        latent: Latent to start from, shape (1, channels, rows, columns).
        options: Options of painting.
        generator: Generator of the cutouts, on the CPU.

    Raises:
        UserError: If there is no target, or a target is not a finite unit vector.
    """

    def __init__(
        self,
        surface: Surface,
        clip: PixelEncoder,
        targets: Sequence[Target],
        *,
        latent: Tensor,
        options: PaintingOptions,
        generator: torch.Generator,
    ):
        check_targets(targets)
        self.surface, self.clip = surface, clip
        self.options, self.generator = options, generator
        self.iteration = 0
        """Number of steps taken."""
        self._latent = latent.detach().clone().requires_grad_()
        self._vectors = torch.stack([target.embed for target in targets]).to(latent)
        weights = torch.tensor([target.weight for target in targets]).to(latent)
        self._weights = weights / weights.abs().sum()
        self._adam = torch.optim.Adam([self._latent], lr=options.step_size)
        self.best: Painted | None = None
        """Image with the lowest loss among those evaluated; None before."""

    @property
    def latent(self) -> Tensor:
        """Current latent, shape (1, channels, rows, columns)."""
        return self._latent.detach().clone()

    def step(self) -> float:
        """Run one step, and return the loss before it."""
        options, pixels = self.options, self.surface.pixels(self._latent)
        size, random = options.cut_size or min(pixels.shape[-2:]), self.generator
        cut = cut_out(pixels, options.cutouts, size, generator=random, augment=options.augment)
        loss = self._distances(self.clip.encode_pixels(cut, size=options.cut_size)).mean()
        if options.total_variation:
            loss = loss + options.total_variation * total_variation(pixels)
        if options.codebook:
            loss = loss + options.codebook * self.surface.distance(self._latent)
        if options.brisque:
            loss = loss + options.brisque * brisque_loss(pixels).mean()
        # Gradient of the latent only: gradients of the networks' weights would need memory.
        (self._latent.grad,) = torch.autograd.grad(loss, self._latent)
        self._adam.step()
        self.iteration += 1
        return loss.item()

    @torch.no_grad()
    def evaluate(self) -> Painted:
        """Evaluate the whole image at full size; `best` is updated."""
        pixels = self.surface.pixels(self._latent)
        embeds = self.clip.encode_pixels(pixels)
        [image], loss = to_images(pixels), self._distances(embeds).item()
        similarities = tuple((embeds @ self._vectors.T)[0].tolist())
        painted = Painted(self.latent, image, loss, similarities, self.iteration)
        if self.best is None or painted.loss < self.best.loss:
            self.best = painted
        return painted

    def _distances(self, embeds: Tensor) -> Tensor:
        """Compute the weighted squared angles to the targets, shape (n,)."""
        return squared_angles(embeds, self._vectors) @ self._weights


def paint(
    surface: Surface,
    clip: PixelEncoder,
    targets: Sequence[Target],
    *,
    latent: Tensor,
    options: PaintingOptions,
    generator: torch.Generator,
    on_step: Callable[[Painting, float], None] | None = None,
) -> Painted:
    """Paint an image by optimizing a latent towards CLIP embeddings.

    Args:
        surface: As for `Painting`.
        clip: As for `Painting`.
        targets: As for `Painting`.
        latent: Latent to start from, such as `Canvas.noise` or `Canvas.encode`.
        options: Options of painting.
        generator: Generator of the cutouts, on the CPU.
        on_step: Called after each step with the painting and the loss; after an interruption
            `Painting.best` holds the best image so far.

    Returns:
        The image with the lowest loss.

    Raises:
        UserError: If there is no target, or a target is not a finite unit vector.

    Examples:
        >>> import torch
        >>> from clip2clap import ClipEncoder
        >>> from clip2clap.inference import Canvas, PaintingOptions, Target, paint
        >>> canvas, clip = Canvas.from_pretrained("demo"), ClipEncoder.from_pretrained("demo")
        >>> target = Target(clip.encode_text(["a photo of a dog"])[0])
        >>> latent = canvas.noise(64, 64, torch.Generator().manual_seed(0))
        >>> options = PaintingOptions(iterations=2, cutouts=2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> paint(canvas, clip, [target], latent=latent, options=options, generator=generator).image
        <PIL.Image.Image image mode=RGB size=64x64 ...>
    """
    painting = Painting(surface, clip, targets, latent=latent, options=options, generator=generator)
    painting.evaluate()
    while painting.iteration < options.iterations:
        loss = painting.step()
        if painting.iteration % _EVALUATE_EVERY == 0 or painting.iteration == options.iterations:
            painting.evaluate()
        if on_step is not None:
            on_step(painting, loss)
    assert painting.best is not None
    return painting.best


def squared_angles(embeds: Tensor, vectors: Tensor) -> Tensor:
    """Compute half the squared angles between unit vectors (n, d) and (m, d), shape (n, m)."""
    chords = (embeds[:, None] - vectors).norm(dim=-1)
    # The arcsine is not defined above 1 (rounding error), and has no slope at 1.
    return 2 * (chords / 2).clamp(max=1 - 1e-6).arcsin().square()


def total_variation(pixels: Tensor) -> Tensor:
    """Compute the mean absolute difference between neighboring pixels of images (n, 3, h, w)."""
    down = pixels.diff(dim=-2).abs().mean()
    across = pixels.diff(dim=-1).abs().mean()
    return (down + across) / 2


def split_waveform(waveform: np.ndarray, parts: int) -> list[np.ndarray]:
    """Split a waveform (samples,) into parts of equal length.

    Raises:
        UserError: If it has fewer samples than parts.
    """
    if not 1 <= parts <= len(waveform):
        raise UserError(
            f"A waveform of {len(waveform)} samples can't be split into {parts} parts.",
            param="parts",
        )
    return np.array_split(waveform, parts)


def check_targets(targets: Sequence[Target], *, needs_positive: bool = True) -> None:
    """Raise an error if a target is no finite unit vector, or none is to be painted towards.

    Raises:
        UserError: If so.
    """
    if needs_positive and not any(target.weight > 0 for target in targets):
        raise UserError("Expected at least one target with a weight above 0 to paint towards.")
    for target in targets:
        if not math.isfinite(target.weight):
            raise UserError(f"The weight of the target {target.name!r} is {target.weight}.")
        norm = target.embed.float().norm().item()
        if target.embed.ndim != 1 or not abs(norm - 1) < _UNIT_TOLERANCE:
            raise UserError(
                f"Expected the target {target.name!r} to be a unit vector, got shape "
                f"{tuple(target.embed.shape)} and norm {norm:.3g}."
            )
