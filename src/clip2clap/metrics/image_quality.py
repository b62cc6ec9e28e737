"""How good a picture looks, without a picture to compare it with."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from clip2clap.core.errors import MissingExtraError

_SMALLEST_SIDE = 16


def brisque(image: Image.Image) -> float | None:
    """Score a picture by its natural scene statistics: 0 is a clean photograph, 100 a ruined one.

    BRISQUE, Mittal, Moorthy and Bovik (2012), https://doi.org/10.1109/TIP.2012.2214050, as the
    `brisque` package computes it. It was fitted to photographs of half a megapixel: among small
    pictures it compares, and says little on its own.

    Args:
        image: In mode RGB.

    Returns:
        The score; None for a picture that is too small or too plain to have one.

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
            "Scoring pictures by BRISQUE needs an extra: pip install 'clip2clap[scores]'."
        ) from error

    class Model(BRISQUE):
        def scale_features(self, features: Any) -> np.ndarray:
            # Some are arrays of one number, which NumPy 2.4 no longer turns into that number.
            return super().scale_features([np.ravel(feature)[0] for feature in features])

    return Model(url=False)
