"""No-reference image quality."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from clip2clap.core.errors import MissingExtraError

_SMALLEST_SIDE = 16


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


@cache
def _model() -> Any:
    try:
        from brisque import BRISQUE
    except ImportError as error:
        raise MissingExtraError(
            "BRISQUE needs an extra: pip install 'clip2clap[scores]'."
        ) from error

    class Model(BRISQUE):
        def scale_features(self, features: Any) -> np.ndarray:
            # Some are arrays of one number, which NumPy 2.4 no longer converts.
            return super().scale_features([np.ravel(feature)[0] for feature in features])

    return Model(url=False)
