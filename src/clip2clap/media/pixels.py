"""Pictures as the decoders take and give them: tensors of pixels within [0, 1]."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """Turn pixels into PIL images.

    Args:
        pixels: Shape (n, 3, height, width), within [0, 1].
    """
    bytes_ = (pixels.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_]


def to_pixels(pictures: list[Image.Image], height: int, width: int) -> Tensor:
    """Cut pictures to a shape.

    Returns:
        Shape (n, 3, height, width), float32, within [0, 1].
    """
    rows = [
        np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC))
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
