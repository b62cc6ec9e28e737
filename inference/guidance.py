"""Classifier-free guidance: which steps are guided, and by what."""

import math


def interval_steps(interval: tuple[float, float], num_steps: int) -> range:
    """Return the indices of the denoising steps that lie in a guidance interval.

    Args:
        interval: First and last fraction of the steps, such as (0.0, 0.5) for the first half; see
            Kynkäänniemi et al. (2024), arXiv 2404.07724.
        num_steps: Number of denoising steps.
    """
    start, end = interval
    return range(math.ceil(start * num_steps), math.ceil(end * num_steps))
