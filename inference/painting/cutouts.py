"""Random cut-outs of a picture, made and encoded as one batch."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# A cut-out's side is at least this share of the picture's short side.
_SMALLEST = 0.4
# How far augmentation goes: turns in radians, shear, brightness and contrast as shares of 1.
_TURN = math.radians(12)
_SHEAR = 0.1
_COLOUR = 0.15
# The picture is shrunk first if a cut-out would skip over its pixels.
_MOST_SHRINK = 2


def cut_out(
    pixels: Tensor, count: int, size: int, *, generator: torch.Generator, augment: bool = True
) -> Tensor:
    """Cut squares out of a picture: the whole first, then random ones.

    All are made by one affine resampling, through which gradients go; see Crowson et al. (2022),
    "VQGAN-CLIP", arXiv 2204.08583, for why cut-outs help.

    Args:
        pixels: One RGB picture, shape (1, 3, h, w), in [0, 1].
        count: Cut-outs. The first is the largest square about the middle, unchanged.
        size: Their side in pixels, to which they are scaled.
        generator: Where places, sizes and changes come from, on the CPU.
        augment: Mirror, turn, shear and tint the random ones.

    Returns:
        Shape (count, 3, size, size).
    """
    height, width = pixels.shape[-2:]
    shrink = min(height, width) / (_MOST_SHRINK * size)
    if shrink > 1:
        smaller = (round(height / shrink), round(width / shrink))
        pixels = F.interpolate(pixels, smaller, mode="bilinear", antialias=True)
    matrices = _places(count, height, width, generator, augment=augment)
    grid = F.affine_grid(matrices.to(pixels), [count, 3, size, size], align_corners=False)
    cut = F.grid_sample(
        pixels.expand(count, -1, -1, -1), grid, padding_mode="reflection", align_corners=False
    )
    if not augment:
        return cut
    brightness, contrast = (_COLOUR * _spread(count, generator)).chunk(2, dim=1)
    shift, gain = (
        F.pad(change[1:], (0, 0, 1, 0)).to(pixels).view(-1, 1, 1, 1)
        for change in (brightness, contrast)
    )
    return ((cut - 0.5) * (1 + gain) + 0.5 + shift).clamp(0, 1)


def _places(
    count: int, height: int, width: int, generator: torch.Generator, *, augment: bool
) -> Tensor:
    """Draw the affine maps from a cut-out's coordinates to the picture's, shape (count, 2, 3)."""
    short = min(height, width)
    # Half the side of the largest square, in coordinates that go from -1 to 1 along each side.
    square = torch.tensor([short / width, short / height])
    shares = _SMALLEST + (1 - _SMALLEST) * torch.rand(count, 1, generator=generator)
    shares[0] = 1
    centres = (1 - shares * square) * (2 * torch.rand(count, 2, generator=generator) - 1)
    centres[0] = 0
    linear = torch.eye(2).repeat(count, 1, 1)
    if augment:
        turn, shear = (torch.tensor([_TURN, _SHEAR]) * _spread(count, generator)).unbind(1)
        mirror = torch.rand(count, generator=generator).lt(0.5) * -2.0 + 1
        turn[0], shear[0], mirror[0] = 0, 0, 1
        cos, sin = turn.cos(), turn.sin()
        linear = torch.stack([mirror * cos, shear - sin, mirror * sin, cos], dim=1).view(
            count, 2, 2
        )
    scale = (shares * square).unsqueeze(2)
    return torch.cat([linear * scale, centres.unsqueeze(2)], dim=2)


def _spread(count: int, generator: torch.Generator) -> Tensor:
    """Draw two numbers from -1 to 1 for each, shape (count, 2)."""
    return 2 * torch.rand(count, 2, generator=generator) - 1
