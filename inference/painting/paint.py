"""Paint a picture towards vectors: optimise a latent until CLIP sees in it what was asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.painting.canvas import to_image
from clip2clap.inference.painting.cutouts import cut_out

# The whole picture is looked at, to keep the best, once in so many iterations: it costs about as
# much as one.
_LOOK_EVERY = 10
_MOST_ITERATIONS = 1_000_000


class Surface(Protocol):
    """What can be painted on; `Canvas` is one."""

    def pixels(self, latent: Tensor) -> Tensor:
        """Decode a latent to RGB pixels in [0, 1], shape (1, 3, h, w)."""
        ...

    def distance(self, latent: Tensor) -> Tensor:
        """Measure how far the latent has gone from what the decoder knows."""
        ...


class PixelEncoder(Protocol):
    """What looks at the picture; `ClipEncoder` is one."""

    def encode_pixels(self, pixel_values: Tensor, *, size: int | None = None) -> Tensor:
        """Encode images of shape (n, 3, h, w) in [0, 1] as unit vectors, shape (n, d)."""
        ...


@dataclass(frozen=True)
class Target:
    """A direction for the picture to take, or to turn away from."""

    embed: Tensor
    """A vector of the CLIP's space, shape (d,), unit norm."""

    weight: float = 1.0
    """How much it counts beside the others; below 0 the picture turns away from it."""

    name: str = ""
    """What it stands for, for the scores."""


@dataclass(frozen=True)
class PaintingOptions:
    """How a picture is painted."""

    iterations: int = 150
    """Steps of Adam."""

    step_size: float = 0.1
    """Adam's learning rate, in units of the autoencoder's own scale."""

    cutouts: int = 8
    """Cut-outs that CLIP sees in each iteration; the first is always the whole picture."""

    cut_size: int | None = None
    """Side of a cut-out in pixels; by default `default_cut_size`."""

    augment: bool = True
    """Mirror, turn, shear and tint the cut-outs, so that no single view counts."""

    total_variation: float = 1.0
    """Weight of the mean difference between neighbouring pixels: more of it paints smoother."""

    codebook: float = 0.0
    """Weight of the latent's distance from what the autoencoder knows (`Canvas.distance`)."""

    def __post_init__(self) -> None:
        if not 1 <= self.iterations <= _MOST_ITERATIONS:
            raise UserError(f"Expected iterations to be at least 1, got {self.iterations}.")
        if not 0 < self.step_size < float("inf"):
            raise UserError(f"Expected a step size above 0, got {self.step_size}.")
        if self.cutouts < 1:
            raise UserError(f"Expected at least 1 cut-out, got {self.cutouts}.")
        if self.cut_size is not None and self.cut_size < 1:
            raise UserError(f"Expected a cut-out's size of at least 1, got {self.cut_size}.")
        for name in ("total_variation", "codebook"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(
                    f"Expected the weight {name} to be 0 or more, got {getattr(self, name)}."
                )


def default_cut_size(clip: ClipEncoder) -> int:
    """Give the size of cut-outs at which a CLIP is fast and still sees enough.

    A convolutional tower takes half its own size at a quarter of the time; a transformer takes its
    own size only.
    """
    return clip.image_size // 2 if clip.takes_any_size else clip.image_size


@dataclass(frozen=True)
class Painted:
    """A picture and what is known of it."""

    latent: Tensor
    """What it was decoded from, shape (1, channels, rows, columns)."""

    image: Image.Image
    """The picture in mode RGB."""

    loss: float
    """The weighted distance of the whole picture from the targets; less is nearer."""

    similarities: tuple[float, ...]
    """Cosine similarity of the whole picture with each target."""

    iteration: int
    """How many steps had been taken."""


class Painting:
    """One picture while it is painted: `step` goes on, `look` sees how far it has come.

    The loss is the squared angle on the unit sphere between each cut-out and each target, weighted
    (Crowson et al. 2022, "VQGAN-CLIP", arXiv 2204.08583); the sound's vector in the place of the
    text's follows Lee et al. (2022), "Sound-Guided Semantic Image Manipulation", arXiv 2112.00007.

    Args:
        surface: Turns latents into pictures.
        clip: Looks at them.
        targets: Where to go; vectors of this CLIP's space.
        latent: Where to start, shape (1, channels, rows, columns).
        options: How to paint.
        generator: Where the cut-outs come from, on the CPU: the same gives the same picture.

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
        _check_targets(targets)
        self.surface, self.clip = surface, clip
        self.options, self.generator = options, generator
        self.iteration = 0
        """Steps taken so far."""
        self._latent = latent.detach().clone().requires_grad_()
        self._vectors = torch.stack([target.embed for target in targets]).to(latent)
        weights = torch.tensor([target.weight for target in targets]).to(latent)
        self._weights = weights / weights.abs().sum()
        self._adam = torch.optim.Adam([self._latent], lr=options.step_size)
        self.best: Painted | None = None
        """The picture nearest to the targets among those that `look` saw; None before."""

    @property
    def latent(self) -> Tensor:
        """Where the painting has got to, shape (1, channels, rows, columns)."""
        return self._latent.detach().clone()

    def step(self) -> float:
        """Go one iteration on.

        Returns:
            The loss before the step.
        """
        options, pixels = self.options, self.surface.pixels(self._latent)
        cut = cut_out(
            pixels,
            options.cutouts,
            options.cut_size or min(pixels.shape[-2:]),
            generator=self.generator,
            augment=options.augment,
        )
        loss = self._distances(self.clip.encode_pixels(cut, size=options.cut_size)).mean()
        if options.total_variation:
            loss = loss + options.total_variation * total_variation(pixels)
        if options.codebook:
            loss = loss + options.codebook * self.surface.distance(self._latent)
        # Of the latent alone: the networks' weights get no gradient, and no memory for one.
        (self._latent.grad,) = torch.autograd.grad(loss, self._latent)
        self._adam.step()
        self.iteration += 1
        return loss.item()

    @torch.no_grad()
    def look(self) -> Painted:
        """Decode the picture as it is, and measure how near it is, whole and at full size.

        Returns:
            It; `best` is it from now on, if it is the nearest.
        """
        pixels = self.surface.pixels(self._latent)
        embeds = self.clip.encode_pixels(pixels)
        similarities = (embeds @ self._vectors.T)[0].tolist()
        seen = Painted(
            self.latent,
            to_image(pixels),
            self._distances(embeds).item(),
            tuple(similarities),
            self.iteration,
        )
        if self.best is None or seen.loss < self.best.loss:
            self.best = seen
        return seen

    def _distances(self, embeds: Tensor) -> Tensor:
        """Weigh the squared angles to the targets, shape (n,)."""
        chords = (embeds[:, None] - self._vectors).norm(dim=-1)
        # Beyond 1 by a rounding error the arcsine is not a number, at 1 it has no slope.
        angles = (chords / 2).clamp(max=1 - 1e-6).arcsin()
        return (2 * angles.square()) @ self._weights


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
    """Paint a picture towards vectors.

    Args:
        surface: Turns latents into pictures, such as a `Canvas`.
        clip: Looks at them.
        targets: Where to go; vectors of this CLIP's space.
        latent: Where to start, such as `Canvas.noise` or `Canvas.latent_of`.
        options: How to paint.
        generator: Where the cut-outs come from, on the CPU: the same gives the same picture.
        on_step: Called after each iteration with the painting and the loss. Ctrl-C may end it at
            any time: `Painting.best` holds the best so far.

    Returns:
        The picture nearest to the targets.

    Raises:
        UserError: If there is no target, or a target is not a finite unit vector.
    """
    painting = Painting(surface, clip, targets, latent=latent, options=options, generator=generator)
    painting.look()
    while painting.iteration < options.iterations:
        loss = painting.step()
        if painting.iteration % _LOOK_EVERY == 0 or painting.iteration == options.iterations:
            painting.look()
        if on_step is not None:
            on_step(painting, loss)
    assert painting.best is not None
    return painting.best


def total_variation(pixels: Tensor) -> Tensor:
    """Give the mean absolute difference between neighbouring pixels.

    Args:
        pixels: Shape (n, 3, h, w).

    Returns:
        A number, the same unit as the pixels.
    """
    down = pixels.diff(dim=-2).abs().mean()
    across = pixels.diff(dim=-1).abs().mean()
    return (down + across) / 2


def break_sound(waveform: np.ndarray, parts: int) -> list[np.ndarray]:
    """Cut a sound into parts of equal length, which together are the whole.

    Args:
        waveform: Samples, shape (samples,).
        parts: How many.

    Returns:
        That many waveforms.

    Raises:
        UserError: If the sound has fewer samples than parts.
    """
    if not 1 <= parts <= len(waveform):
        raise UserError(f"A sound of {len(waveform)} samples can't be cut into {parts} parts.")
    return np.array_split(waveform, parts)


def _check_targets(targets: Sequence[Target]) -> None:
    if not any(target.weight > 0 for target in targets):
        raise UserError("Expected at least one target with a weight above 0 to paint towards.")
    for target in targets:
        if not abs(target.weight) < float("inf"):
            raise UserError(f"The weight of the target {target.name!r} is {target.weight}.")
        if target.embed.ndim != 1 or not torch.allclose(
            target.embed.float().norm(), torch.tensor(1.0), atol=1e-2
        ):
            raise UserError(
                f"Expected the target {target.name!r} to be a unit vector, got shape "
                f"{tuple(target.embed.shape)} and norm {target.embed.float().norm():.3g}."
            )
