"""Random cutouts of an image, as one batch."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Smallest side of a cutout, as a fraction of the image's short side.
_MIN_SIDE = 0.4
# Largest augmentations: rotation in radians, shear, brightness and contrast.
_ROTATION = math.radians(12)
_SHEAR = 0.1
_COLOR = 0.15
# The image is downscaled first if resampling would skip its pixels.
_MAX_SHRINK = 2


def cut_out(
    pixels: Tensor, count: int, size: int, *, generator: torch.Generator, augment: bool = True
) -> Tensor:
    """Cut squares out of an image by one differentiable affine resampling.

    See Crowson et al. (2022), "VQGAN-CLIP", arXiv 2204.08583, for why cutouts help.

    Args:
        pixels: RGB image, shape (1, 3, h, w), in [0, 1].
        count: Number of cutouts. The first is the largest centered square, not augmented.
        size: Side of the cutouts in pixels, to which they are scaled.
        generator: Generator on the CPU.
        augment: Whether to mirror, rotate, shear and tint the random ones.

    Returns:
        Cutouts, shape (count, 3, size, size).
    """
    height, width = pixels.shape[-2:]
    shrink = min(height, width) / (_MAX_SHRINK * size)
    if shrink > 1:
        smaller = (round(height / shrink), round(width / shrink))
        pixels = F.interpolate(pixels, smaller, mode="bilinear", antialias=True)
    matrices = _affine_maps(count, height, width, generator, augment=augment)
    grid = F.affine_grid(matrices.to(pixels), [count, 3, size, size], align_corners=False)
    cut = F.grid_sample(
        pixels.expand(count, -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
    if not augment:
        return cut
    brightness, contrast = (_COLOR * _uniform(count, generator)).chunk(2, dim=1)
    shift, gain = (
        F.pad(change[1:], (0, 0, 1, 0)).to(pixels).view(-1, 1, 1, 1)
        for change in (brightness, contrast)
    )
    return ((cut - 0.5) * (1 + gain) + 0.5 + shift).clamp(0, 1)


def _affine_maps(
    count: int, height: int, width: int, generator: torch.Generator, *, augment: bool
) -> Tensor:
    """Draw the affine maps from cutout to image coordinates, shape (count, 2, 3)."""
    short = min(height, width)
    # Half the side of the largest square, in coordinates from -1 to 1 along each side.
    square = torch.tensor([short / width, short / height], dtype=torch.float32)
    fractions = _MIN_SIDE + (1 - _MIN_SIDE) * _draw(count, 1, generator)
    fractions[0] = 1
    centers = (1 - fractions * square) * _uniform(count, generator)
    centers[0] = 0
    linear = torch.eye(2, dtype=torch.float32).repeat(count, 1, 1)
    if augment:
        rotation, shear = _uniform(count, generator).unbind(1)
        rotation, shear = _ROTATION * rotation, _SHEAR * shear
        mirror = _draw(count, 1, generator)[:, 0].lt(0.5) * -2.0 + 1
        rotation[0], shear[0], mirror[0] = 0, 0, 1
        cos, sin = rotation.cos(), rotation.sin()
        linear = torch.stack([mirror * cos, shear - sin, mirror * sin, cos], dim=1).view(
            count, 2, 2
        )
    scale = (fractions * square).unsqueeze(2)
    return torch.cat([linear * scale, centers.unsqueeze(2)], dim=2)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    """Draw two numbers from -1 to 1 per cutout, shape (count, 2)."""
    return 2 * _draw(count, 2, generator) - 1


def _draw(count: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, size, generator=generator, dtype=torch.float32)
