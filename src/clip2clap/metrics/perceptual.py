"""Perceptual distance of images: LPIPS."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from clip2clap.core.errors import MissingExtraError, ModelNotFoundError, one_line
from clip2clap.core.hub import quiet

# LPIPS's networks have five stages, each of which halves the image.
_SMALLEST_SIDE = 64


def load_perceptual_distance(
    network: Literal["alex", "vgg", "squeeze"] = "vgg", *, device: torch.device | str = "cpu"
) -> Callable[[Tensor, Tensor], Tensor]:
    """Load LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924), of the `lpips` package.

    Its linear weights come with the package; those of the network are torchvision's, which are
    downloaded unless they are in torch's cache.

    Args:
        network: Network of the features.
        device: Device of the network.

    Returns:
        Differentiable distance of images (n, 3, h, w) in [0, 1], shape (n,). Images with a side
        below 64 pixels are enlarged first.

    Raises:
        MissingExtraError: If the package is not installed.
        ModelNotFoundError: If the network's weights cannot be downloaded.
    """
    try:
        import lpips
    except ImportError as error:
        raise MissingExtraError(
            "The perceptual distance needs an extra: pip install 'clip2clap[perceptual]'."
        ) from error
    try:
        with quiet():
            model: Any = lpips.LPIPS(net=network, verbose=False)
    except Exception as error:  # which errors depends on the library's client
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelNotFoundError(
            f"The weights of torchvision's {network} network, which the perceptual distance needs, "
            f"are not in {folder} and cannot be downloaded ({one_line(error, limit=80)})."
        ) from error
    model = model.eval().requires_grad_(False).to(device)

    def distance(images: Tensor, others: Tensor) -> Tensor:
        sides = [max(side, _SMALLEST_SIDE) for side in images.shape[-2:]]
        if sides != list(images.shape[-2:]):
            images, others = (
                torch.nn.functional.interpolate(each, sides, mode="bilinear")
                for each in (images, others)
            )
        return model(images, others, normalize=True).flatten()

    return distance
