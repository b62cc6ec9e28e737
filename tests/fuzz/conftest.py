"""Bounds on what a fuzzer's inputs may take."""

import logging
import resource
from collections.abc import Iterator

import pytest

from .builders import times

MOST_BYTES = 2**30


@pytest.fixture(autouse=True)
def bounded_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test's inputs take a gigabyte beyond what was in use before."""
    times.clear()
    before = _peak()
    yield
    used = _peak() - before
    logging.info(
        "%s: %d calls, mean %.1f ms, slowest %.0f ms, %.0f MB beyond the %.0f MB before",
        request.node.name,
        len(times),
        1e3 * sum(times) / max(len(times), 1),
        1e3 * max(times, default=0),
        used / 1e6,
        before / 1e6,
    )
    assert used < MOST_BYTES


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
