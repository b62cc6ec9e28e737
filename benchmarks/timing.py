"""Timing of calls."""

import time
from collections.abc import Callable
from typing import Any


def seconds(job: Callable[[], Any], times: int = 1) -> float:
    """Return the seconds of a call, or the mean of several."""
    start = time.perf_counter()
    for _ in range(times):
        job()
    return (time.perf_counter() - start) / times
