"""No-reference image quality."""

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from clip2clap.core.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_SIDE = 16
_MISSING = "BRISQUE needs an extra: pip install 'clip2clap[scores]'."


def brisque(image: Image.Image) -> float | None:
    """Compute BRISQUE, a score from natural scene statistics: 0 is best, 100 is worst.

    Mittal, Moorthy and Bovik (2012), https://doi.org/10.1109/TIP.2012.2214050, as the `brisque`
    package computes it. It was fitted to images of half a megapixel: for small images use it
    for comparisons only.

    Args:
        image: Image in mode RGB.

    Returns:
        The score; None for an image too small or too uniform to have one.

    Raises:
        MissingExtraError: If the package is not installed.
    """
    if min(image.size) < _SMALLEST_SIDE:
        return None
    with np.errstate(all="ignore"):
        score = _model().score(np.asarray(image))
    return float(score) if np.isfinite(score) else None


def brisque_loss(pixels: "Tensor") -> "Tensor":
    """Compute BRISQUE of images with gradients to their pixels.

    The statistics are piq's, and the regression is that of `brisque`. On photographs of 250 to 600
    pixels a side the two differ by 2.6 points in the median, with a rank correlation of 0.91: piq
    scales images down with antialiasing. Shapes of distributions are looked up in a table, so that
    the gradient is that of their scales.

    Args:
        pixels: RGB images, shape (n, 3, h, w), in [0, 1].

    Returns:
        Scores, shape (n,).

    Raises:
        MissingExtraError: If piq or brisque is not installed.
        UserError: If the images are smaller than 16 pixels.
    """
    import torch

    try:
        from piq.brisque import _natural_scene_statistics
        from piq.functional import imresize, rgb2yiq
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error
    if min(pixels.shape[-2:]) < _SMALLEST_SIDE:
        raise UserError(
            f"BRISQUE needs images of at least {_SMALLEST_SIDE} pixels a side, got "
            f"{tuple(pixels.shape[-2:])}."
        )
    # Not through `piq.brisque`, which rounds the luma of colors and so has no gradient.
    luma, features = rgb2yiq(pixels.float() * 255)[:, :1], []
    for _ in range(2):
        # A uniform image has no statistics.
        luma = luma + 1e-3 * torch.sin(torch.arange(luma.shape[-1], device=luma.device))
        features.append(_natural_scene_statistics(luma))
        luma = imresize(luma, sizes=(luma.shape[-2] // 2, luma.shape[-1] // 2))
    low, high, vectors, weights, gamma, rho = (each.to(luma.device) for each in _regression())
    scaled = 2 * (torch.cat(features, dim=-1).double() - low) / (high - low) - 1
    distances = (scaled[:, None] - vectors).square().sum(dim=-1)
    return ((-gamma * distances).exp() @ weights - rho).float()


def require_brisque() -> None:
    """Raise a `MissingExtraError` if the packages of BRISQUE are not installed."""
    from importlib.util import find_spec

    if find_spec("piq") is None or find_spec("brisque") is None:
        raise MissingExtraError(_MISSING, param="brisque")


@cache
def _regression() -> "tuple[Tensor, ...]":
    """Return the ranges of features, and the support vectors, weights, gamma and rho."""
    import torch

    model = _model()
    ranges = (torch.tensor(np.array(model.scale_params[name], float)) for name in ("min_", "max_"))
    vectors = torch.zeros(model.model.l, 36, dtype=torch.float64)
    for row, entries in enumerate(model.model.get_SV()):
        for place, value in entries.items():
            if place > 0:
                vectors[row, place - 1] = value
    weights = torch.tensor([each for (each,) in model.model.get_sv_coef()], dtype=torch.float64)
    constants = model.model.param.gamma, model.model.rho[0]
    return (*ranges, vectors, weights, *(torch.tensor(each) for each in constants))


@cache
def _model() -> Any:
    try:
        from brisque import BRISQUE
    except ImportError as error:
        raise MissingExtraError(_MISSING) from error

    class Model(BRISQUE):
        def scale_features(self, features: Any) -> np.ndarray:
            # Some are arrays of one number, which NumPy 2.4 no longer converts.
            return super().scale_features([np.ravel(feature)[0] for feature in features])

    return Model(url=False)
